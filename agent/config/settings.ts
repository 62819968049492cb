// The one schema of all settings: type, default, unit, description, limits. It feeds validation, `weft agent --help`,
// docs/settings.md and the Helm values schema. Weave Net's names of the same thing ride along as `aliases`.

import { Ajv, type ErrorObject } from 'ajv';
import { Type } from 'typebox';
import type { Static, TSchema } from 'typebox';
import type { Config } from '#agent/config.ts';
import { formats } from '#agent/config/formats.ts';

/** What the settings table adds to JSON Schema. */
export interface SettingNotes {
  readonly group: string;
  readonly default: unknown;
  readonly description: string;
  /** Empty where the value has none. */
  readonly unit?: string;
  /** Text for the docs where the default depends on something else. */
  readonly defaultText?: string;
  /** Weave Net's environment variables with the same meaning. */
  readonly aliases?: readonly string[];
}

export type SettingSchema = TSchema & SettingNotes & SchemaShape;

/** The parts of JSON Schema that describing a value in words needs. */
export interface SchemaShape {
  readonly type?: string;
  readonly enum?: readonly string[];
  readonly format?: string;
  readonly minimum?: number;
  readonly maximum?: number;
  readonly items?: SchemaShape;
}

const port = { minimum: 1, maximum: 65_535 };
const path = { format: 'absolutePath', maxLength: 4096 };

const properties = {
  nodeName: Type.String({
    group: 'Node',
    format: 'nodeName',
    default: '',
    defaultText: "the host's name",
    description: 'Name of this node. In Kubernetes it must be the name of the Node object.',
  }),
  registry: Type.Enum(['kubernetes', 'peers'], {
    group: 'Node',
    default: 'kubernetes',
    description:
      'Where the nodes agree on who owns which addresses: the API server, or the voters among the nodes themselves.',
  }),
  discovery: Type.Enum(['kubernetes', 'static'], {
    group: 'Node',
    default: 'kubernetes',
    defaultText: '`static` with registry `peers`, else `kubernetes`',
    description: 'Where the list of nodes comes from: Node objects, or the setting `nodes`.',
  }),
  kubeconfig: Type.String({
    group: 'Node',
    format: 'optionalPath',
    default: '',
    defaultText: "the pod's service account",
    description: 'Kubeconfig file for the API server.',
  }),
  apiServer: Type.String({
    group: 'Node',
    format: 'optionalServer',
    default: '',
    defaultText: 'what the service account or the kubeconfig says',
    description:
      'Address of the API server. Needed only where its Service address leads nowhere, such as without kube-proxy.',
  }),
  namespace: Type.String({
    group: 'Node',
    format: 'label',
    default: 'weft',
    description: "Weft's own namespace in Kubernetes.",
  }),
  nodes: Type.Array(
    Type.Object(
      {
        name: Type.String({ format: 'nodeName' }),
        addresses: Type.Array(Type.String({ format: 'address' }), { minItems: 1, maxItems: 8 }),
      },
      { additionalProperties: false },
    ),
    {
      group: 'Node',
      maxItems: 5000,
      default: [],
      description:
        'With discovery `static`: every node and its underlay addresses. As text: `host1=192.0.2.1,host2=192.0.2.2`, several addresses joined by `+`.',
    },
  ),
  voters: Type.Array(Type.String({ format: 'nodeName' }), {
    group: 'Peers registry',
    maxItems: 7,
    uniqueItems: true,
    default: [],
    description:
      'Names of the nodes that vote; an odd number, the same list on every node. A majority of them must be up for the range to be shared out anew.',
  }),
  tlsCa: Type.String({
    group: 'Peers registry',
    ...path,
    default: '/etc/weft/tls/ca.pem',
    description: 'Certificate of the authority that signed every node.',
  }),
  tlsCert: Type.String({
    group: 'Peers registry',
    ...path,
    default: '/etc/weft/tls/node.pem',
    description: "This node's certificate.",
  }),
  tlsKey: Type.String({
    group: 'Peers registry',
    ...path,
    default: '/etc/weft/tls/node-key.pem',
    description: "This node's private key.",
  }),
  peersPort: Type.Integer({
    group: 'Peers registry',
    ...port,
    default: 6783,
    description: 'TCP port between the nodes; only with registry `peers`.',
  }),
  ranges: Type.Array(Type.String({ format: 'range' }), {
    group: 'Addresses',
    minItems: 1,
    maxItems: 16,
    uniqueItems: true,
    default: ['10.32.0.0/12'],
    aliases: ['IPALLOC_RANGE'],
    description:
      'Ranges that the nodes share among themselves: IPv4, IPv6, or both, then every pod has an address of each. Read once, when the first node founds the network.',
  }),
  reserved: Type.Array(Type.String({ format: 'cidr' }), {
    group: 'Addresses',
    maxItems: 64,
    uniqueItems: true,
    default: [],
    description: 'Parts of the ranges that are never given to anybody. Read once, like `ranges`.',
  }),
  pools: Type.Array(Type.String({ format: 'pool' }), {
    group: 'Addresses',
    maxItems: 16,
    uniqueItems: true,
    default: [],
    description:
      'Further pools, made by the first agent that starts with them; every other learns of them. As text: `blue=10.64.0.0/16,green=10.65.0.0/16+fd00:65::/64`. In Kubernetes apply a Universe instead.',
  }),
  restTimeMs: Type.Integer({
    group: 'Addresses',
    minimum: 0,
    maximum: 86_400_000,
    unit: 'ms',
    default: 30_000,
    description: 'How long a freed address rests before it is used again.',
  }),
  allocateWaitMs: Type.Integer({
    group: 'Addresses',
    minimum: 0,
    maximum: 50_000,
    unit: 'ms',
    default: 10_000,
    description: 'How long an ADD waits for an address when this node has none left.',
  }),
  takeOverAfterMs: Type.Integer({
    group: 'Addresses',
    minimum: 1000,
    maximum: 2_592_000_000,
    unit: 'ms',
    default: 300_000,
    description:
      'How long a node must be gone before another takes its space over; its session must have stood still for its term too.',
  }),
  sessionTermMs: Type.Integer({
    group: 'Addresses',
    minimum: 1000,
    maximum: 86_400_000,
    unit: 'ms',
    default: 180_000,
    description:
      'A session that stands still for so long is dead. A third of it is the time between renewals; the same on every node.',
  }),
  collectMs: Type.Integer({
    group: 'Addresses',
    minimum: 1000,
    maximum: 86_400_000,
    unit: 'ms',
    default: 60_000,
    description:
      'How often the agent looks for leases whose pod is gone without a DEL. What is gone at two looks in a row is taken back.',
  }),
  stateDir: Type.String({
    group: 'Files',
    ...path,
    default: '/var/lib/weft',
    description: 'Durable state: leases, promises. Must survive a reboot.',
  }),
  runDir: Type.String({
    group: 'Files',
    ...path,
    default: '/run/weft',
    description: 'Sockets and marks that end with a reboot.',
  }),
  socket: Type.String({
    group: 'Files',
    format: 'socketPath',
    default: '',
    defaultText: '`<runDir>/cni.sock`',
    description: 'Unix socket that the CNI plugin asks.',
  }),
  spoolDir: Type.String({
    group: 'Files',
    format: 'absolutePath',
    maxLength: 4096,
    default: '',
    defaultText: '`<stateDir>/spool`',
    description: 'Where the CNI plugin leaves DELs while the agent is away.',
  }),
  conflistPath: Type.String({
    group: 'Files',
    format: 'conflistPath',
    maxLength: 4096,
    default: '/etc/cni/net.d/05-weft.conflist',
    description: 'The network configuration that the agent writes when it can serve an ADD.',
  }),
  cniBinDir: Type.String({
    group: 'Files',
    ...path,
    default: '/opt/cni/bin',
    description: 'Where `weft install` puts the CNI plugin.',
  }),
  podLink: Type.Enum(['routed', 'bridge'], {
    group: 'Overlay',
    default: 'routed',
    description:
      'How pods of this node are linked: `routed` by a veth each, `bridge` as ports of one bridge, for those who need broadcast and multicast on the node (needs br_netfilter). Pods keep the link that they were made with.',
  }),
  dhcpUplink: Type.String({
    group: 'Overlay',
    format: 'optionalInterface',
    default: '',
    defaultText: 'none: `ipam.type: dhcp` is refused',
    description:
      'Link of this node, without addresses, that becomes a port of the bridge of pods with `ipam.type: dhcp`: their Ethernet segment (docs/dhcp.md).',
  }),
  overlayMode: Type.Enum(['vxlan', 'direct', 'auto'], {
    group: 'Overlay',
    default: 'vxlan',
    description:
      'How packets reach peers on the same link: `vxlan` encapsulated, `direct` by plain routes, `auto` by plain routes where probes show that the network carries pod addresses both ways. Peers behind a router always get VXLAN.',
  }),
  vxlanPort: Type.Integer({
    group: 'Overlay',
    ...port,
    default: 6784,
    description: 'UDP port of the overlay; the same on every node.',
  }),
  vxlanVni: Type.Integer({
    group: 'Overlay',
    minimum: 1,
    maximum: 16_777_215,
    default: 6784,
    description: 'VXLAN network identifier; the same on every node.',
  }),
  mtuBytes: Type.Integer({
    group: 'Overlay',
    minimum: 0,
    maximum: 65_485,
    unit: 'bytes',
    default: 0,
    defaultText: "0: the underlay link's less the overlay's header",
    aliases: ['WEAVE_MTU'],
    description: 'MTU of the overlay and of the pods, 0 for automatic, otherwise 576 or more.',
  }),
  underlayAddress: Type.String({
    group: 'Overlay',
    format: 'optionalAddress',
    default: '',
    defaultText: "the node's first address",
    description:
      'Address of this node that carries the overlay. In Kubernetes one of the InternalIPs of its Node: the others take no address that is not there.',
  }),
  underlayInterface: Type.String({
    group: 'Overlay',
    format: 'optionalInterface',
    default: '',
    defaultText: 'the interface that has the underlay address',
    description: 'Interface that carries the overlay.',
  }),
  nonMasqueradeRanges: Type.Array(Type.String({ format: 'cidr' }), {
    group: 'Overlay',
    maxItems: 64,
    uniqueItems: true,
    default: [],
    description: 'Destinations outside the overlay that see pod addresses as they are.',
  }),
  probeIntervalMs: Type.Integer({
    group: 'Overlay',
    minimum: 0,
    maximum: 3_600_000,
    unit: 'ms',
    default: 10_000,
    description: 'How often each peer is probed (round trip, loss, path MTU); at most 20 peers a second. 0: never.',
  }),
  resyncMs: Type.Integer({
    group: 'Overlay',
    minimum: 1000,
    maximum: 3_600_000,
    unit: 'ms',
    default: 20_000,
    description:
      "How often the kernel's state is compared with what it should be when nothing has told of a change; 20 ms for each of Weft's kernel objects where that is longer, up to 120 s.",
  }),
  metricsListen: Type.String({
    group: 'Observation',
    format: 'listen',
    default: ':6782',
    aliases: ['WEAVE_METRICS_ADDR'],
    description: 'Address and port of `/metrics`, `/healthz`, `/readyz`; without an address: all. `off`: none.',
  }),
  statusListen: Type.String({
    group: 'Observation',
    format: 'listen',
    default: '127.0.0.1:6785',
    aliases: ['WEAVE_STATUS_ADDR', 'WEAVE_HTTP_ADDR'],
    description: 'Address and port of the status page and its API, which the command `weft` reads. `off`: none.',
  }),
  logLevel: Type.Enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace'], {
    group: 'Observation',
    default: 'info',
    description: 'Least severity that is logged.',
  }),
  logFormat: Type.Enum(['auto', 'text', 'json'], {
    group: 'Observation',
    default: 'auto',
    description: 'Lines for people or JSON; `auto` is text on a terminal.',
  }),
};

const schema = Type.Object(properties, { additionalProperties: false });

// Both directions, so that neither the interface nor the schema can grow a setting alone.
type Same<A, B> = [A] extends [B] ? ([B] extends [A] ? true : never) : never;
type Mutable<T> = T extends readonly (infer U)[]
  ? Mutable<U>[]
  : T extends object
    ? { -readonly [K in keyof T]: Mutable<T[K]> }
    : T;
const sameShape: Same<Static<typeof schema>, Mutable<Config>> = true;
void sameShape;

/** Every setting by name, in the order of the documentation. */
export const settings: Readonly<Record<keyof Config, SettingSchema>> = properties as unknown as Readonly<
  Record<keyof Config, SettingSchema>
>;

// That the schema is one is tested, not asked at each start: compiling JSON Schema's own costs more than all the rest.
const ajv = new Ajv({ allErrors: true, verbose: true, strict: true, validateSchema: false });
ajv.addVocabulary(['group', 'unit', 'defaultText', 'aliases']);
for (const [name, format] of Object.entries(formats)) ajv.addFormat(name, format.test);
const validate = ajv.compile(schema);

/** One line for each value that the schema refuses: setting, value, source, what is allowed. */
export function schemaProblems(values: unknown, sourceOf: (key: string) => string): readonly string[] {
  if (validate(values)) return [];
  const seen = new Set<string>();
  const problems: string[] = [];
  for (const error of validate.errors ?? []) {
    const [, key = '', ...rest] = error.instancePath.split('/');
    if (seen.has(error.instancePath)) continue;
    seen.add(error.instancePath);
    const where = rest.length === 0 ? key : `${key} (item ${rest.join('.')})`;
    problems.push(`${where}: ${show(error.data)} (${sourceOf(key)}) is not allowed: ${reason(error)}`);
  }
  return problems;
}

/** What a value of this schema may be, in words. */
export function allowed(shape: SchemaShape): string {
  if (shape.enum !== undefined) return `one of ${shape.enum.join(', ')}`;
  if (shape.type === 'integer') return `a whole number from ${shape.minimum ?? 0} to ${shape.maximum ?? 'any'}`;
  if (shape.type === 'array') return `a list; each item: ${shape.items === undefined ? 'any' : allowed(shape.items)}`;
  if (shape.format !== undefined) return formats[shape.format]?.allowed ?? shape.format;
  return shape.type === 'object' ? 'an object with `name` and `addresses`' : 'text';
}

function reason(error: ErrorObject): string {
  const shape = error.parentSchema as SchemaShape;
  if (['type', 'enum', 'format', 'minimum', 'maximum'].includes(error.keyword)) return `it must be ${allowed(shape)}`;
  return `it ${error.message ?? 'is wrong'}`;
}

/** A value as it stands in a message, cut where it is long. */
export function show(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 120 ? `${text.slice(0, 117)}…` : text;
}
