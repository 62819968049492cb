// Fuzzes the agent's socket: requests that are nearly right (every field of the environment, the configuration and the HTTP around it may
// be off), many connections at once. What must hold: each answer is CNI's, links and leases agree, and the agent serves on.

import fc from 'fast-check';
import { connect } from 'node:net';

import type { CniCase } from '#test/support/cni-case.ts';

export interface FuzzOptions {
  readonly seed: number;
  readonly runs: number;
  /** Ends early, counting as success. */
  readonly limitMs?: number;
}

const junk = fc.oneof(
  fc.string({ maxLength: 40 }),
  fc.integer(),
  fc.constant(null),
  fc.boolean(),
  fc.json().map(parsed),
);
const often = <T, U>(usual: fc.Arbitrary<T>, odd: fc.Arbitrary<U>): fc.Arbitrary<T | U> =>
  fc.oneof({ weight: 6, arbitrary: usual }, { weight: 1, arbitrary: odd });

const version = often(fc.constantFrom('0.1.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'), junk);
const ids = ['pod1', 'pod2', 'pod3'];
const attachment = often(fc.record({ containerID: fc.constantFrom(...ids), ifname: fc.constant('eth0') }), junk);
const address = fc.constantFrom('10.32.0.9/32', '10.32.0.9', 'fd00::9/128', '300.1.1.1', '', '/');
const runtimeConfig = fc.record(
  {
    portMappings: often(
      fc.array(
        fc.record({
          hostPort: often(fc.nat(70_000), junk),
          containerPort: fc.nat(70_000),
          protocol: fc.constantFrom('tcp', 'udp', 'x'),
        }),
        { maxLength: 3 },
      ),
      junk,
    ),
    bandwidth: often(fc.record({ ingressRate: fc.integer(), ingressBurst: fc.integer() }), junk),
    mac: often(fc.constantFrom('0a:00:00:00:00:01', 'ff:ff:ff:ff:ff:ff'), junk),
    ips: often(fc.array(address, { maxLength: 3 }), junk),
    'io.kubernetes.cri.pod-annotations': often(
      fc.dictionary(fc.constantFrom('weft.network/ips', 'a'), fc.string()),
      junk,
    ),
  },
  { requiredKeys: [] },
);
const prevResult = often(
  fc.record({
    cniVersion: version,
    interfaces: often(
      fc.array(fc.record({ name: fc.constantFrom('eth0', 'x'), sandbox: fc.constantFrom('', '/ns/pod1') })),
      junk,
    ),
    ips: often(fc.array(fc.record({ address, interface: fc.nat(3) })), junk),
  }),
  junk,
);
const conf = fc.record(
  {
    cniVersion: version,
    name: often(fc.constantFrom('weft', 'other'), junk),
    type: often(fc.constantFrom('weft', 'bridge'), junk),
    ipam: often(
      fc.record(
        {
          type: fc.constantFrom('', 'weft', 'no-such-plugin', '../x'),
          routes: often(fc.constant([{ dst: '0.0.0.0/0' }]), junk),
        },
        { requiredKeys: [] },
      ),
      junk,
    ),
    dns: often(fc.record({ nameservers: often(fc.array(fc.string()), junk) }), junk),
    args: junk,
    runtimeConfig: often(runtimeConfig, junk),
    prevResult,
    'cni.dev/valid-attachments': often(fc.array(attachment, { maxLength: 4 }), junk),
    'cni.dev/attachments': often(fc.array(attachment, { maxLength: 4 }), junk),
    bridge: junk,
  },
  { requiredKeys: ['cniVersion', 'name'] },
);
const env = fc.record(
  {
    CNI_COMMAND: often(fc.constantFrom('ADD', 'DEL', 'CHECK', 'STATUS', 'GC', 'VERSION'), fc.string()),
    CNI_CONTAINERID: often(fc.constantFrom(...ids), fc.string()),
    CNI_NETNS: often(fc.constantFrom('/ns/pod1', '/ns/pod2', '/ns/gone', '/etc/passwd', ''), fc.string()),
    CNI_IFNAME: often(fc.constant('eth0'), fc.string()),
    CNI_ARGS: often(fc.constantFrom('K8S_POD_NAME=web;IgnoreUnknown=1', 'IP=10.32.0.7'), fc.string()),
    CNI_PATH: fc.constant('/nowhere'),
  },
  { requiredKeys: ['CNI_COMMAND', 'CNI_PATH'] },
);
const stdin = often(
  conf.map((json) => JSON.stringify(json)),
  fc.string(),
);
const request = fc.record({
  body: often(
    fc.record({ env, stdin, netnsInode: fc.constantFrom('', '100'), bootId: fc.constant('') }),
    fc.record({ env: junk, stdin: junk, netnsInode: junk, bootId: junk, more: junk }, { requiredKeys: [] }),
  ),
  /** Bytes changed in the whole HTTP request: place as a fraction, value. */
  damage: often(
    fc.constant([]),
    fc.array(fc.tuple(fc.double({ min: 0, max: 0.999, noNaN: true }), fc.nat(255)), { maxLength: 3 }),
  ),
});

/** Runs the fuzzer against the case's server, which has started. Throws with seed and counter-example. */
export async function fuzzSocket(given: CniCase, { seed, runs, limitMs }: FuzzOptions): Promise<void> {
  for (const [at, id] of ids.entries()) given.namespaces.set(`/ns/${id}`, BigInt(100 + at));
  await fc.assert(
    fc.asyncProperty(fc.array(request, { minLength: 1, maxLength: 6 }), async (requests) => {
      const answers = await Promise.all(requests.map((one) => talk(given.socketPath, bytesOf(one))));
      for (const answer of answers) requireCni(answer);
      const links = [...given.datapath.links.keys()].toSorted();
      const leased = given.ipam.leases().filter(({ owner }) => owner.linkedBy === undefined);
      const wanted = leased.map(({ hostIfname }) => hostIfname).toSorted();
      if (links.join() !== wanted.join()) throw new Error(`links ${links.join()} but leases ${wanted.join()}`);
      if (given.ipam.leases().some(({ state }) => state !== 'active')) throw new Error('a lease stays pending');
    }),
    {
      seed,
      numRuns: runs,
      ...(limitMs === undefined ? {} : { interruptAfterTimeLimit: limitMs, markInterruptAsFailure: false }),
    },
  );
}

function bytesOf({
  body,
  damage,
}: {
  readonly body: unknown;
  readonly damage: readonly (readonly [number, number])[];
}): Buffer {
  const json = JSON.stringify(body);
  const head = `POST /cni HTTP/1.1\r\nHost: weft\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${Buffer.byteLength(json)}\r\n\r\n`;
  const bytes = Buffer.from(head + json);
  for (const [place, value] of damage) bytes[Math.floor(place * bytes.length)] = value;
  return bytes;
}

/** What the server says before it closes; a damaged length may leave it waiting, so the sending side is closed. */
async function talk(path: string, bytes: Buffer): Promise<string> {
  return await new Promise((resolve) => {
    let said = '';
    const socket = connect(path, () => socket.end(bytes));
    socket.on('data', (chunk) => (said += chunk.toString()));
    socket.on('error', () => resolve(said));
    socket.on('close', () => resolve(said));
  });
}

/** Nothing at all is an answer to a request that never became whole. */
function requireCni(answer: string): void {
  if (answer === '') return;
  const [head = '', body = ''] = answer.split('\r\n\r\n');
  const status = Number(/^HTTP\/1\.1 (\d{3}) /.exec(head)?.[1]);
  if (status === 200 && body === '') return;
  const json: unknown = JSON.parse(body);
  const isError = typeof json === 'object' && json !== null && 'code' in json && 'msg' in json;
  if (!(status === 200 ? !isError : isError && status >= 400)) throw new Error(`not CNI's answer: ${answer}`);
  if (isError && json.code === 999) throw new Error(`a defect: ${body}`);
}

function parsed(text: string): unknown {
  return JSON.parse(text);
}
