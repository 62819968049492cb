// `table inet weft` in the kernel: loaded whole through libnftables in one transaction, read back as JSON, single elements
// changed by nfnetlink deltas (0.2 ms where a load takes milliseconds). What the table says is in ruleset.ts.
import { newSetElement, delSetElement, setKey, maxElementsPerRequest } from '#agent/netlink/set-element.ts';
import type { ElementSpec, SetAddress } from '#agent/netlink/set-element.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { errno, NetlinkError } from '#agent/netlink/netlink-error.ts';

import type { KernelIo } from './kernel-io.ts';
import { noElements, setNames } from './objects.ts';
import type { ActualFirewall, DesiredFirewall, SetElements, SetName } from './objects.ts';
import { chainPrint, orderFingerprint, rulePrint } from './ruleset.ts';

export interface ElementRef {
  readonly set: SetName;
  readonly key: string;
}

/** The elements of one pod link: its source addresses and its slot in the verdict map. */
export function podElements(hostIfname: string, addresses: readonly string[]): readonly ElementRef[] {
  return [
    ...addresses.map((address): ElementRef => ({
      set: address.includes(':') ? 'sources6' : 'sources4',
      key: `${hostIfname} . ${address}`,
    })),
    { set: 'pod_verdicts', key: hostIfname },
  ];
}

/** Adds elements in one transaction; those already there are no error. Throws NetlinkError. */
export function addElements(io: KernelIo, table: string, elements: readonly ElementRef[]): void {
  io.netfilter.transaction(requestsFor(table, elements, newSetElement));
}

/** Removes elements; those that are not there are no error. Throws NetlinkError. */
export function removeElements(io: KernelIo, table: string, elements: readonly ElementRef[]): void {
  try {
    io.netfilter.transaction(requestsFor(table, elements, delSetElement));
  } catch (error) {
    if (!isAbsent(error)) throw error;
    if (elements.length > 1) for (const element of elements) removeElements(io, table, [element]);
  }
}

function isAbsent(error: unknown): boolean {
  return error instanceof NetlinkError && error.errno === errno.ENOENT;
}

function requestsFor(
  table: string,
  elements: readonly ElementRef[],
  make: (where: SetAddress, specs: readonly ElementSpec[]) => NetlinkRequest<unknown>,
): readonly NetlinkRequest<unknown>[] {
  return setNames.flatMap((set) => {
    const specs = elements.filter((element) => element.set === set).map(specOf);
    const requests: NetlinkRequest<unknown>[] = [];
    for (let from = 0; from < specs.length; from += maxElementsPerRequest) {
      requests.push(make({ table, set }, specs.slice(from, from + maxElementsPerRequest)));
    }
    return requests;
  });
}

function specOf(element: ElementRef): ElementSpec {
  const [first = '', second] = element.key.split(' . ');
  if (element.set === 'pod_verdicts') return { key: setKey({ ifname: first }), verdict: 'accept' };
  if (second === undefined) return { key: setKey({ ip: first }) };
  return { key: setKey({ ifname: first }, { ip: second }) };
}

/** The whole table in nft's language; replaces what is there in the same transaction. */
export function firewallText(table: string, firewall: DesiredFirewall): string {
  const lines = [
    `table inet ${table}`,
    `delete table inet ${table}`,
    `table inet ${table} {`,
    firewall.ruleset.body,
    '}',
  ];
  for (const set of setNames) {
    const elements = [...firewall.elements[set]].map((key) => elementText(set, key));
    if (elements.length > 0) lines.push(`add element inet ${table} ${set} { ${elements.join(', ')} }`);
  }
  return lines.join('\n');
}

function elementText(set: SetName, key: string): string {
  const [first = '', second] = key.split(' . ');
  if (set === 'pod_verdicts') return `"${first}" : accept`;
  return second === undefined ? first : `"${first}" . ${second}`;
}

/** Reads the table; an absent one has an empty fingerprint. Throws NftablesError. */
export async function readFirewall(io: KernelIo, table: string, signal?: AbortSignal): Promise<ActualFirewall> {
  const tables = parseListing(await io.nft.runAsync('list tables inet', { json: true }, signal));
  if (!tables.some((object) => asRecord(object['table'])?.['name'] === table)) {
    return { fingerprint: [], elements: noElements() };
  }
  return parseFirewall(await io.nft.runAsync(`list table inet ${table}`, { json: true }, signal));
}

type JsonObject = Readonly<Record<string, unknown>>;

function parseListing(json: string): readonly JsonObject[] {
  const listed: unknown = asRecord(JSON.parse(json))?.['nftables'];
  return Array.isArray(listed)
    ? listed.flatMap((object: unknown): readonly JsonObject[] => {
        const record = asRecord(object);
        return record ? [record] : [];
      })
    : [];
}

/** A table as libnftables lists it (libnftables-json(5)). */
export function parseFirewall(json: string): ActualFirewall {
  const lines: string[] = [];
  const elements: Record<SetName, Set<string>> = {
    peers4: new Set(),
    peers6: new Set(),
    sources4: new Set(),
    sources6: new Set(),
    pod_verdicts: new Set(),
  };
  for (const object of parseListing(json)) {
    const chain = asRecord(object['chain']);
    if (chain) lines.push(chainLine(chain));
    const rule = asRecord(object['rule']);
    if (rule)
      lines.push(rulePrint(asText(rule['chain']), typeof rule['comment'] === 'string' ? rule['comment'] : undefined));
    const set = asRecord(object['set']) ?? asRecord(object['map']);
    const name = setNames.find((candidate) => candidate === set?.['name']);
    if (set && name && Array.isArray(set['elem'])) {
      for (const element of set['elem'] as readonly unknown[]) elements[name].add(elementKey(element));
    }
  }
  // Chains first: a chain's own line leads its rules, as in the rendered ruleset.
  const chainsFirst = [
    ...lines.filter((line) => line.startsWith('chain')),
    ...lines.filter((line) => line.startsWith('rule')),
  ];
  return { fingerprint: orderFingerprint(chainsFirst), elements: elements satisfies SetElements };
}

function chainLine(chain: JsonObject): string {
  const name = asText(chain['name']);
  if (chain['hook'] === undefined) return chainPrint({ name });
  const base = { type: asText(chain['type']), hook: asText(chain['hook']), prio: Number(chain['prio']) };
  const line = chainPrint({ name, base });
  return chain['policy'] === 'accept' ? line : `${line} but ${asText(chain['policy'])}`;
}

function elementKey(element: unknown): string {
  if (typeof element === 'string') return element;
  if (Array.isArray(element)) {
    const [key, verdict] = element as readonly unknown[];
    const text = elementKey(key);
    return asRecord(verdict)?.['accept'] === null ? text : `${text} : ${JSON.stringify(verdict)}`;
  }
  const concat = asRecord(element)?.['concat'];
  if (Array.isArray(concat)) return concat.map(String).join(' . ');
  return JSON.stringify(element);
}

function isRecord(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function asRecord(value: unknown): JsonObject | undefined {
  return isRecord(value) ? value : undefined;
}

function asText(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

/** Names of foreign base chains that drop by policy what Weft needs: `forward` for pods, `input` for the overlay's UDP. */
export async function foreignDropPolicies(
  io: KernelIo,
  table: string,
  signal?: AbortSignal,
): Promise<readonly { readonly hook: string; readonly chain: string }[]> {
  const chains = parseListing(await io.nft.runAsync('list chains', { json: true }, signal));
  return chains.flatMap((object) => {
    const chain = asRecord(object['chain']);
    if (chain?.['policy'] !== 'drop' || chain['table'] === table) return [];
    const hook = asText(chain['hook']);
    if (hook !== 'forward' && hook !== 'input') return [];
    return [{ hook, chain: `${asText(chain['family'])} ${asText(chain['table'])} ${asText(chain['name'])}` }];
  });
}
