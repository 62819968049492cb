// The shim's one request, parsed into a typed call. The shim is trusted in nothing: names, paths and sizes are checked here,
// and what is missing is named all at once (CNI spec 1.1.0, "Section 2: Execution Protocol").

import { type TSchema, Type } from 'typebox';

import { WeftError } from '#agent/errors.ts';
import type { AttachmentKey, Delegate } from '#agent/runtime/ipam.ts';
import { type NetConf, parseNetConf } from './netconf.ts';
import { atLeast, type CniVersion } from './versions.ts';
import { withCniArgs } from './wish.ts';

/** Body of `POST /cni` and content of a spool file. */
export interface ShimRequest {
  /** Every CNI_* variable that the runtime set. */
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string;
  /** Inode behind CNI_NETNS as the shim saw it, decimal; empty when there was no namespace. */
  readonly netnsInode: string;
  readonly bootId: string;
}

/** JSON Schema of ShimRequest. */
export const shimRequestSchema: TSchema = Type.Object(
  {
    env: Type.Record(Type.String({ pattern: '^CNI_' }), Type.String(), { additionalProperties: false }),
    stdin: Type.String({ maxLength: 1 << 20 }),
    netnsInode: Type.String({ pattern: '^[0-9]{0,20}$' }),
    bootId: Type.String({ pattern: '^[0-9a-f-]{0,64}$' }),
  },
  { additionalProperties: false },
);

/** Who the attachment is for, as far as CNI_ARGS tell. */
export interface PodNames {
  readonly podNamespace?: string;
  readonly podName?: string;
  readonly podUid?: string;
}

interface Delegable {
  /** The plugin that gives the addresses, ready to be called; absent: Weft does. */
  readonly delegate?: Delegate;
}

export interface AddCall extends Delegable {
  readonly verb: 'ADD';
  readonly key: AttachmentKey;
  readonly netnsPath: string;
  /** Inode that the shim saw behind that path; undefined where it saw no namespace. */
  readonly netnsInode: bigint | undefined;
  readonly pod: PodNames;
  readonly netConf: NetConf;
}

export interface DelCall extends Delegable {
  readonly verb: 'DEL';
  readonly key: AttachmentKey;
  readonly netConf: NetConf;
}

export interface CheckCall extends Delegable {
  readonly verb: 'CHECK';
  readonly key: AttachmentKey;
  readonly netnsPath: string;
  readonly netConf: NetConf;
}

export interface StatusCall extends Delegable {
  readonly verb: 'STATUS';
  readonly netConf: NetConf;
}

export interface GcCall extends Delegable {
  readonly verb: 'GC';
  readonly netConf: NetConf;
  readonly valid: readonly AttachmentKey[];
}

export interface VersionCall {
  readonly verb: 'VERSION';
}

export type CniCall = AddCall | DelCall | CheckCall | StatusCall | GcCall | VersionCall;
export type Verb = CniCall['verb'];

const verbs: readonly Verb[] = ['ADD', 'DEL', 'CHECK', 'STATUS', 'GC', 'VERSION'];

const requiredVariables: Readonly<Record<Verb, readonly string[]>> = {
  ADD: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  DEL: ['CNI_CONTAINERID', 'CNI_IFNAME'],
  CHECK: ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME'],
  STATUS: [],
  GC: ['CNI_PATH'],
  VERSION: [],
};

/** From which version on a verb exists. */
const sinceVersion: Readonly<Partial<Record<Verb, CniVersion>>> = { CHECK: '0.4.0', STATUS: '1.1.0', GC: '1.1.0' };

const containerIdPattern = /^[a-zA-Z0-9][a-zA-Z0-9_.-]*$/;
const maxContainerId = 200;
const maxIfnameBytes = 15;

/**
 * The call that a request makes. Throws WeftError: `invalidEnvironment` (4) for variables, those of parseNetConf for stdin,
 * `incompatibleVersion` (1) for a verb that its version does not have, `invalidConfig` (7) for a verb's missing part.
 */
export function parseCall(request: ShimRequest): CniCall {
  const { env } = request;
  const verb = parseVerb(env['CNI_COMMAND']);
  if (verb === 'VERSION') return { verb };
  const missing = requiredVariables[verb].filter((name) => (env[name] ?? '') === '');
  if (missing.length > 0) throw badEnvironment(`required environment variables missing: ${missing.join(', ')}`, verb);
  const needsContainer = verb === 'ADD' || verb === 'DEL' || verb === 'CHECK';
  const key = needsContainer ? parseKey(env['CNI_CONTAINERID'] ?? '', env['CNI_IFNAME'] ?? '') : undefined;
  const netConf = parseNetConf(request.stdin, verb === 'ADD' || verb === 'CHECK');
  const since = sinceVersion[verb];
  if (since !== undefined && !atLeast(netConf.cniVersion, since)) {
    throw new WeftError('incompatibleVersion', `${verb} needs cniVersion ${since}; got ${netConf.cniVersion}`, {
      details: 'cniVersion',
    });
  }
  const { delegate: type } = netConf.ipam;
  const given = type === undefined ? { netConf } : { netConf, delegate: { type, env, stdin: request.stdin } };
  if (key === undefined)
    return verb === 'GC' ? { verb, ...given, valid: validOf(netConf) } : { verb: 'STATUS', ...given };
  if (verb === 'DEL') return { verb, key, ...given };
  const netnsPath = parseNetnsPath(env['CNI_NETNS'] ?? '');
  if (verb === 'ADD') {
    if (netConf.prevResult !== undefined && !atLeast(netConf.cniVersion, '0.3.0')) {
      throw new WeftError(
        'invalidConfig',
        `there are no lists of plugins in CNI ${netConf.cniVersion}, but a prevResult`,
        {
          details: 'prevResult',
        },
      );
    }
    const args = parseArgs(env['CNI_ARGS'] ?? '');
    const wish = withCniArgs(netConf.wish, args.get('IP'), args.get('MAC'));
    const netnsInode = request.netnsInode === '' ? undefined : BigInt(request.netnsInode);
    return { verb, key, netnsPath, netnsInode, pod: podNames(args), ...given, netConf: { ...netConf, wish } };
  }
  if (netConf.prevResult === undefined) {
    throw new WeftError('invalidConfig', 'CHECK needs the prevResult of ADD', { details: 'prevResult' });
  }
  return { verb: 'CHECK', key, netnsPath, ...given };
}

/** The key of an attachment out of its two variables. Throws WeftError('invalidEnvironment'). */
export function parseKey(containerId: string, ifname: string): AttachmentKey {
  if (!containerIdPattern.test(containerId) || containerId.length > maxContainerId) {
    throw badEnvironment(
      `CNI_CONTAINERID ${JSON.stringify(containerId.slice(0, 80))} is not a container id: letters, digits, "_", "." and "-", ` +
        `a letter or digit first, at most ${maxContainerId}`,
      'CNI_CONTAINERID',
    );
  }
  // What the kernel refuses (dev_valid_name), and % which it would take for a pattern.
  // The kernel refuses `all` and `default`: they are folders of /proc/sys/net/ipv4/conf.
  const isBad = /[\s\p{Cc}/:%\uFFFD]/u.test(ifname) || ['', '.', '..', 'all', 'default'].includes(ifname);
  if (isBad || Buffer.byteLength(ifname) > maxIfnameBytes) {
    throw badEnvironment(
      `CNI_IFNAME ${JSON.stringify(ifname.slice(0, 80))} is not an interface name: 1 to ${maxIfnameBytes} bytes without "/", ":", "%" and white space, not ".", "..", "all" or "default"`,
      'CNI_IFNAME',
    );
  }
  return { containerId, ifname };
}

function parseVerb(command: string | undefined): Verb {
  if (command === undefined || command === '') {
    throw badEnvironment('required environment variables missing: CNI_COMMAND', 'CNI_COMMAND');
  }
  const verb = verbs.find((known) => known === command);
  if (verb !== undefined) return verb;
  throw badEnvironment(`unknown CNI_COMMAND ${JSON.stringify(command.slice(0, 80))}`, 'CNI_COMMAND');
}

function parseNetnsPath(path: string): string {
  if (!path.startsWith('/') || path.includes('\0') || path.length > 4096) {
    throw new WeftError('invalidNetns', `CNI_NETNS ${JSON.stringify(path.slice(0, 200))} is not an absolute path`, {
      details: 'CNI_NETNS',
    });
  }
  return path;
}

/** CNI_ARGS is `K=V;K=V`; keys that Weft does not know are for others. */
function parseArgs(args: string): ReadonlyMap<string, string> {
  const values = new Map<string, string>();
  for (const pair of args.split(';').filter((text) => text !== '')) {
    const equals = pair.indexOf('=');
    if (equals < 1)
      throw badEnvironment(`CNI_ARGS has ${JSON.stringify(pair.slice(0, 80))}, which is not KEY=VALUE`, 'CNI_ARGS');
    values.set(pair.slice(0, equals), pair.slice(equals + 1).slice(0, 253));
  }
  return values;
}

function podNames(values: ReadonlyMap<string, string>): PodNames {
  const podNamespace = values.get('K8S_POD_NAMESPACE');
  const podName = values.get('K8S_POD_NAME');
  const podUid = values.get('K8S_POD_UID');
  return {
    ...(podNamespace === undefined ? {} : { podNamespace }),
    ...(podName === undefined ? {} : { podName }),
    ...(podUid === undefined ? {} : { podUid }),
  };
}

function validOf(netConf: NetConf): readonly AttachmentKey[] {
  if (netConf.validAttachments !== undefined) return netConf.validAttachments;
  throw new WeftError(
    'invalidConfig',
    'GC got no "cni.dev/valid-attachments"; without the list nothing can be collected',
    {
      details: 'cni.dev/valid-attachments',
    },
  );
}

function badEnvironment(message: string, details: string): WeftError {
  return new WeftError('invalidEnvironment', message, { details });
}
