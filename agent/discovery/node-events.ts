// Findings as Events of the own Node, for whoever asks `kubectl describe node` or collects events. An event is made once and never
// updated, so that the verb `create` is enough: its name is made of the node and the finding, and while one of that name is there
// (the API server keeps events for an hour) another is refused as known. What is about peers is not told: when one node dies,
// thousands of others would say so at once.

import { createHash } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import type { Logger } from 'pino';
import { toWeftError } from '#agent/errors.ts';
import type { FindingName } from '#agent/findings.ts';
import type { KubeApi } from '#agent/kubernetes/api.ts';
import { failure } from '#agent/kubernetes/list-watch.ts';
import type { Finding } from '#agent/observe/findings.ts';

export interface NodeEventsOptions {
  readonly api: KubeApi;
  readonly node: { readonly nodeName: string; readonly nodeUid: string };
  readonly findings: () => readonly Finding[];
  readonly log: Pick<Logger, 'debug'>;
  /** Between two looks; a finding is told when it is there in two of them. */
  readonly everyMs?: number;
  /** Most events at once; one more is earned every minute. */
  readonly most?: number;
}

/** Events of cluster-wide objects live in this namespace. */
const path = '/apis/events.k8s.io/v1/namespaces/default/events';
/** A note may have this many bytes. */
const noteLimitBytes = 1024;

/** Many nodes see these at once, or nobody could be told. */
const untold: ReadonlySet<FindingName> = new Set<FindingName>([
  'registrySilent',
  'poolNearlyFull',
  'peerWithoutUnderlay',
  'duplicatePeerAddress',
  'duplicatePeerMac',
  'duplicateLinkAddress',
  'duplicateMachineId',
  'peerUnreachable',
  'overlayBlocked',
  'underlayFamily',
  'pathMtuTooSmall',
  'fullSizeLost',
  'checksumFault',
]);

/** Looks and tells until the signal aborts. What cannot be told is tried at the next look. */
export async function tellFindings(options: NodeEventsOptions, signal: AbortSignal): Promise<void> {
  const { api, node, findings, log, everyMs = 30_000, most = 10 } = options;
  let seen = new Set<string>();
  const told = new Set<string>();
  let budget = most;
  while (!signal.aborted) {
    await sleep(everyMs * (0.75 + Math.random() / 2), undefined, { signal, ref: false }).catch(() => undefined);
    budget = Math.min(most, budget + everyMs / 60_000);
    const now = new Map(findings().map((finding) => [keyOf(finding), finding]));
    for (const key of told) if (!now.has(key)) told.delete(key);
    for (const [key, finding] of now) {
      if (signal.aborted || budget < 1) break;
      if (told.has(key) || !seen.has(key) || untold.has(finding.name)) continue;
      try {
        await create(api, eventOf(node, key, finding), signal);
        told.add(key);
        budget -= 1;
      } catch (error) {
        if (!signal.aborted) log.debug({ reason: toWeftError(error).message }, 'an event could not be written');
        break;
      }
    }
    seen = new Set(now.keys());
  }
}

async function create(api: KubeApi, event: object, signal: AbortSignal): Promise<void> {
  const answer = await api.call({ method: 'POST', path, body: event }, signal);
  // 409: it was told less than an hour ago, perhaps by the agent before this one.
  if (answer.status !== 201 && answer.status !== 409) throw failure('creating an Event', answer);
}

/** What a finding is about; its message may hold numbers that change. */
function keyOf({ name, subject = '' }: Finding): string {
  return `${name} ${subject}`;
}

function eventOf({ nodeName, nodeUid }: NodeEventsOptions['node'], key: string, finding: Finding): object {
  const { name, message, nextStep } = finding;
  const digest = createHash('sha256').update(`${nodeUid} ${key}`).digest('hex').slice(0, 16);
  return {
    apiVersion: 'events.k8s.io/v1',
    kind: 'Event',
    metadata: { name: `weft.${digest}`, namespace: 'default' },
    // Six digits after the point are what the API server wants.
    eventTime: new Date().toISOString().replace(/Z$/, '000Z'),
    type: 'Warning',
    reason: `${name.charAt(0).toUpperCase()}${name.slice(1)}`,
    action: 'Checked',
    note: shortened(`${message} ${nextStep}`),
    reportingController: 'weft.network/agent',
    reportingInstance: nodeName,
    regarding: { apiVersion: 'v1', kind: 'Node', name: nodeName, uid: nodeUid },
  };
}

function shortened(text: string): string {
  const bytes = Buffer.from(text);
  if (bytes.length <= noteLimitBytes) return text;
  return `${bytes
    .subarray(0, noteLimitBytes - 8)
    .toString('utf8')
    .replace(/\uFFFD+$/, '')} …`;
}
