// The contenders of the datapath benches, all on the same kind of underlay (two hosts on a switch made of namespaces), and the traffic
// between their pods (traffic.c).
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

import { Lab, until } from '#test/netns/datapath/lab.ts';
import { TestNetns } from '#test/support/netns.ts';

export interface Contender {
  readonly name: ContenderName;
  readonly client: TestNetns;
  readonly server: TestNetns;
  /** The client's and the server's. */
  readonly hosts: readonly TestNetns[];
  readonly address: string;
}

export interface Burst {
  readonly amount: number;
  readonly tookNs: number;
  readonly cpuNs: number;
}

export const contenderNames = ['bare', 'hostGw', 'flannel', 'weftVxlan', 'weftDirect'] as const;
export type ContenderName = (typeof contenderNames)[number];

/** All contenders, each with its server. */
export async function startContenders(stack: AsyncDisposableStack, traffic: string): Promise<readonly Contender[]> {
  const contenders: Contender[] = [];
  for (const name of contenderNames) {
    const contender = await makeContender(stack, name);
    stack.use(await startServer(traffic, contender));
    contenders.push(contender);
  }
  return contenders;
}

/** The pods can be used once `startServer` has run. */
async function makeContender(stack: AsyncDisposableStack, name: ContenderName): Promise<Contender> {
  if (name === 'bare') return bare(stack);
  if (name === 'hostGw' || name === 'flannel') return byHand(stack, name);
  const overlayMode = name === 'weftVxlan' ? 'vxlan' : 'direct';
  const lab = stack.use(await Lab.create(2, { settings: { overlayMode, comparePeriodMs: 3_600_000 } }));
  const near = await lab.host(0).addPod();
  const far = await lab.host(1).addPod();
  const hosts = lab.hosts.map(({ netns }) => netns);
  await askNoFilter(lab.wire);
  return { name, client: near.netns, server: far.netns, hosts, address: far.lease.addresses[0] ?? '' };
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
  return { name: 'bare', client, server, hosts: [], address: '10.99.0.2' };
}

/** A switch asks no iptables about the frames that it hands on. */
async function askNoFilter(wire: TestNetns): Promise<void> {
  await wire.exec(['sysctl', '-qw', 'net.bridge.bridge-nf-call-iptables=0']);
}

/** Two hosts on a switch, each with a bridge for its one pod, as the recipes in the documentation of host-gw and flannel make them. */
async function byHand(stack: AsyncDisposableStack, name: 'hostGw' | 'flannel'): Promise<Contender> {
  const wire = stack.use(await TestNetns.create('switch'));
  await wire.exec(['ip', 'link', 'add', 'br0', 'up', 'type', 'bridge']);
  await askNoFilter(wire);
  const pods: TestNetns[] = [];
  const hosts: TestNetns[] = [];
  for (const [self, other] of [
    [1, 2],
    [2, 1],
  ] as const) {
    const host = stack.use(await TestNetns.create('host'));
    const pod = stack.use(await TestNetns.create('pod'));
    pods.push(pod);
    hosts.push(host);
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
  return { name, client, server, hosts, address: '10.98.2.2' };
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

export interface Load {
  /** As traffic.c names it. */
  readonly kind: 'tcp' | 'udp' | 'rr';
  readonly streams: number;
  readonly milliseconds: number;
}

export async function runBurst(traffic: string, { client, address }: Contender, load: Load): Promise<Burst> {
  const { kind, streams, milliseconds } = load;
  return JSON.parse(
    await client.exec([traffic, 'burst', address, kind, String(streams), String(milliseconds)]),
  ) as Burst;
}

/** Compiles traffic.c; returns the program's path. */
export function buildTraffic(): string {
  const output = join(mkdtempSync(join(tmpdir(), 'weft-bench-')), 'traffic');
  const source = fileURLToPath(new URL('traffic.c', import.meta.url));
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror', '-pthread'];
  const { status, stderr, error } = spawnSync(process.env['CC'] ?? 'cc', [...flags, source, '-o', output], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`cannot build traffic.c: ${stderr || String(error)}`);
  return output;
}
