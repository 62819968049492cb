// Pod to pod across two nodes, in Weft's modes and in what people build by hand, all on the same underlay (two hosts on a switch made of
// namespaces), bursts of 0.2 s interleaved in one run. Best of the rounds for each, as ratios to host-gw by hand, because short bursts
// on a shared machine are slowed down but never sped up by others. CPU per byte, packet and request is what both processes used, the
// kernel's work in their name included: it depends less on what else runs.
//
//   bare        two namespaces and a cable, no forwarding: the floor
//   hostGw      a bridge per node, veths, a plain route to the other node; no rules, nothing is tracked or translated
//   flannel     the same with one VXLAN device per node in place of the plain route, and flannel's own iptables rules
//   weftVxlan   routed pod links, overlay mode vxlan (the default)
//   weftDirect  routed pod links, overlay mode direct

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { type Figures, rounded } from '#test/bench/figures.ts';
import { Lab, until } from '#test/netns/datapath/lab.ts';
import { run, TestNetns } from '#test/support/netns.ts';

const kinds = {
  tcp1: { kind: 'tcp', streams: 1 },
  tcp8: { kind: 'tcp', streams: 8 },
  packets: { kind: 'udp', streams: 1 },
  requests: { kind: 'rr', streams: 1 },
} as const;
type KindName = keyof typeof kinds;

const burstMs = 200;
const rounds = 18;

interface Contender {
  readonly name: string;
  readonly client: TestNetns;
  readonly server: TestNetns;
  readonly address: string;
}

interface Burst {
  readonly amount: number;
  readonly tookNs: number;
  readonly cpuNs: number;
}

export async function benchDatapath(say: (line: string) => void): Promise<Figures> {
  await run(['ip', 'link', 'set', 'lo', 'up']);
  const traffic = build();
  await using stack = new AsyncDisposableStack();
  const contenders = await makeContenders(stack);
  for (const contender of contenders) stack.use(await startServer(traffic, contender));
  const bursts = new Map<string, Burst[]>();
  for (const [name, { kind, streams }] of Object.entries(kinds)) {
    say(`${name}: ${rounds} rounds of ${contenders.length} bursts …`);
    for (let round = 0; round < rounds; round++) {
      const order = round % 2 === 0 ? contenders : contenders.toReversed();
      for (const contender of order) {
        const key = `${contender.name} ${name}`;
        const burst = await runBurst(traffic, contender, kind, streams);
        bursts.set(key, [...(bursts.get(key) ?? []), burst]);
      }
    }
  }
  return { datapath: Object.fromEntries(contenders.map(({ name }) => [name, figuresOf(bursts, name)])) };
}

/** Ratios to host-gw by hand, and the absolute figures behind them. */
function figuresOf(bursts: ReadonlyMap<string, readonly Burst[]>, name: string): Figures {
  const best = (contender: string, kind: KindName): number =>
    Math.max(...(bursts.get(`${contender} ${kind}`) ?? []).map(({ amount, tookNs }) => (amount / tookNs) * 1e9));
  const cpu = (contender: string, kind: KindName): number =>
    Math.min(...(bursts.get(`${contender} ${kind}`) ?? []).map(({ amount, cpuNs }) => cpuNs / amount));
  const cpuRatio = (kind: KindName): number => rounded(cpu(name, kind) / cpu('hostGw', kind));
  const ratio = (kind: KindName): number => rounded(best(name, kind) / best('hostGw', kind));
  return {
    tcp1: ratio('tcp1'),
    tcp8: ratio('tcp8'),
    packets: ratio('packets'),
    requests: ratio('requests'),
    cpuPerByte: cpuRatio('tcp1'),
    cpuPerPacket: cpuRatio('packets'),
    cpuPerRequest: cpuRatio('requests'),
    absolute: {
      tcp1GigabitPerSecond: rounded((best(name, 'tcp1') * 8) / 1e9),
      tcp8GigabitPerSecond: rounded((best(name, 'tcp8') * 8) / 1e9),
      packetsPerSecond: rounded(best(name, 'packets')),
      requestsPerSecond: rounded(best(name, 'requests')),
      cpuSecondsPerGigabyte: rounded(cpu(name, 'tcp1')),
      cpuMicrosecondsPerPacket: rounded(cpu(name, 'packets') / 1000),
      cpuMicrosecondsPerRequest: rounded(cpu(name, 'requests') / 1000),
    },
  };
}

async function makeContenders(stack: AsyncDisposableStack): Promise<readonly Contender[]> {
  const weft = await Promise.all(
    (['vxlan', 'direct'] as const).map(async (overlayMode): Promise<Contender> => {
      const lab = stack.use(await Lab.create(2, { settings: { overlayMode, comparePeriodMs: 3_600_000 } }));
      const near = await lab.host(0).addPod();
      const far = await lab.host(1).addPod();
      const address = far.lease.addresses[0] ?? '';
      const name = overlayMode === 'vxlan' ? 'weftVxlan' : 'weftDirect';
      return { name, client: near.netns, server: far.netns, address };
    }),
  );
  return [await bare(stack), await byHand(stack, 'hostGw'), await byHand(stack, 'flannel'), ...weft];
}

async function bare(stack: AsyncDisposableStack): Promise<Contender> {
  const [client, server] = [stack.use(await TestNetns.create('bare')), stack.use(await TestNetns.create('bare'))];
  await client.exec(['ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', server.path]);
  for (const [netns, address] of [
    [client, '10.99.0.1'],
    [server, '10.99.0.2'],
  ] as const) {
    await netns.exec(['ip', 'address', 'add', `${address}/24`, 'dev', 'eth0']);
    await netns.exec(['ip', 'link', 'set', 'eth0', 'up']);
  }
  return { name: 'bare', client, server, address: '10.99.0.2' };
}

/** Two hosts on a switch, each with a bridge for its one pod, as the recipes in the documentation of host-gw and flannel make them. */
async function byHand(stack: AsyncDisposableStack, name: 'hostGw' | 'flannel'): Promise<Contender> {
  const wire = stack.use(await TestNetns.create('switch'));
  await wire.exec(['ip', 'link', 'add', 'br0', 'up', 'type', 'bridge']);
  const pods: TestNetns[] = [];
  for (const [self, other] of [
    [1, 2],
    [2, 1],
  ] as const) {
    const host = stack.use(await TestNetns.create('host'));
    const pod = stack.use(await TestNetns.create('pod'));
    pods.push(pod);
    await wire.exec(['ip', 'link', 'add', `port${self}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', host.path]);
    await wire.exec(['ip', 'link', 'set', `port${self}`, 'master', 'br0', 'up']);
    const overlay =
      name === 'hostGw'
        ? `ip route add 10.98.${other}.0/24 via 192.0.2.${other}`
        : `ip link add flannel.1 address 0a:00:00:00:00:0${self} type vxlan id 1 local 192.0.2.${self} dev eth0 dstport 8472 nolearning
           ip address add 10.98.${self}.0/32 dev flannel.1; ip link set flannel.1 up
           ip route add 10.98.${other}.0/24 via 10.98.${other}.0 dev flannel.1 onlink
           ip neighbour add 10.98.${other}.0 dev flannel.1 lladdr 0a:00:00:00:00:0${other}
           bridge fdb add 0a:00:00:00:00:0${other} dev flannel.1 dst 192.0.2.${other}
           ${flannelRules(self)}`;
    const mtu = name === 'hostGw' ? 1500 : 1450;
    await host.exec([
      'sh',
      '-ec',
      `sysctl -qw net.ipv4.ip_forward=1
       ip address add 192.0.2.${self}/24 dev eth0; ip link set eth0 up
       ip link add cni0 type bridge; ip address add 10.98.${self}.1/24 dev cni0; ip link set cni0 up
       ip link add veth0 mtu ${mtu} type veth peer name eth0 mtu ${mtu} netns ${pod.path}
       ip link set veth0 master cni0 up
       ${overlay}`,
    ]);
    await pod.exec([
      'sh',
      '-ec',
      `ip address add 10.98.${self}.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.98.${self}.1`,
    ]);
  }
  const [client, server] = pods as [TestNetns, TestNetns];
  return { name, client, server, address: '10.98.2.2' };
}

/** What flannel itself puts into iptables, with 10.98.0.0/16 as the network: without it nothing would be tracked. */
function flannelRules(self: number): string {
  const [network, own] = ['10.98.0.0/16', `10.98.${self}.0/24`];
  return [
    `-t nat -N FLANNEL-POSTRTG`,
    `-t nat -A POSTROUTING -j FLANNEL-POSTRTG`,
    `-t nat -A FLANNEL-POSTRTG -s ${own} -d ${network} -j RETURN`,
    `-t nat -A FLANNEL-POSTRTG -s ${network} -d ${own} -j RETURN`,
    `-t nat -A FLANNEL-POSTRTG -s ${network} ! -d 224.0.0.0/4 -j MASQUERADE --random-fully`,
    `-t nat -A FLANNEL-POSTRTG ! -s ${network} -d ${network} -j MASQUERADE --random-fully`,
    `-N FLANNEL-FWD`,
    `-A FORWARD -j FLANNEL-FWD`,
    `-A FLANNEL-FWD -s ${network} -j ACCEPT`,
    `-A FLANNEL-FWD -d ${network} -j ACCEPT`,
  ]
    .map((rule) => `iptables-nft ${rule}`)
    .join('; ');
}

async function startServer(traffic: string, { name, client, server, address }: Contender): Promise<AsyncDisposable> {
  const child = spawn('nsenter', [`--net=${server.path}`, '--', traffic, 'server', address], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  await until(
    `${name}: the pods reach each other`,
    async () =>
      client.exec(['ping', '-c', '1', '-w', '2', address]).then(
        () => true,
        () => false,
      ),
    20_000,
  );
  return { [Symbol.asyncDispose]: async () => end(child) };
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null) return;
  child.kill('SIGKILL');
  await once(child, 'exit');
}

async function runBurst(traffic: string, contender: Contender, kind: string, streams: number): Promise<Burst> {
  const { client, address } = contender;
  return JSON.parse(await client.exec([traffic, 'burst', address, kind, String(streams), String(burstMs)])) as Burst;
}

function build(): string {
  const output = join(mkdtempSync(join(tmpdir(), 'weft-bench-')), 'traffic');
  const source = fileURLToPath(new URL('traffic.c', import.meta.url));
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror', '-pthread'];
  const { status, stderr, error } = spawnSync(process.env['CC'] ?? 'cc', [...flags, source, '-o', output], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`cannot build traffic.c: ${stderr || String(error)}`);
  return output;
}
