// The checks that run inside the virtual machine, by what they show. Each throws where something is not as it should be.
import assert from 'node:assert/strict';
import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

import { Lab } from '#test/netns/datapath/lab.ts';
import type { LabHost, Pod } from '#test/netns/datapath/lab.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { ConfList, type Plugin } from '#test/support/conf-list.ts';
import { TestNetns } from '#test/support/netns.ts';
import { shimPath } from '../../cni-shim/build.ts';
import { startKubeProxy } from './kube-proxy.ts';

const bin = fileURLToPath(new URL('../../bin', import.meta.url));

/** A host with an agent, and a link to a segment: `lan0` here, `lan1` there. */
class Segment implements AsyncDisposable {
  readonly host: AgentHost;
  readonly hostNetns: TestNetns;
  readonly there: TestNetns;

  private constructor(host: AgentHost, hostNetns: TestNetns, there: TestNetns) {
    this.host = host;
    this.hostNetns = hostNetns;
    this.there = there;
  }

  static async create(): Promise<Segment> {
    const host = await AgentHost.create('own netns', { restTimeMs: 0 });
    assert.ok(host.netns);
    host.program = [process.execPath, '--disable-warning=ExperimentalWarning', `${bin}/weft.mjs`, 'agent'];
    await host.start();
    await mkdir(join(host.directory, 'plugins'));
    await symlink(shimPath, join(host.directory, 'plugins/weft'));
    const there = await TestNetns.create('segment');
    const veth = ['ip', 'link', 'add', 'lan0', 'type', 'veth', 'peer', 'name', 'lan1', 'netns', there.name];
    await host.netns.exec(veth);
    await host.netns.exec(['ip', 'link', 'set', 'lan0', 'up']);
    await there.exec(['ip', 'link', 'set', 'lan1', 'up']);
    return new Segment(host, host.netns, there);
  }

  list(plugin: Plugin): ConfList {
    return new ConfList({
      name: `net-${plugin.type}`,
      cniVersion: '1.0.0',
      plugins: [plugin],
      hostNetns: this.hostNetns.path,
      binDir: join(this.host.directory, 'plugins'),
      env: { WEFT_SOCKET: this.host.socketPath, WEFT_SPOOL_DIR: this.host.spoolDir },
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.there[Symbol.asyncDispose]();
    await this.host[Symbol.asyncDispose]();
  }
}

const plain = (result: Readonly<Record<string, unknown>>): string =>
  (result as { ips: readonly { address: string }[] }).ips[0]?.address.split('/')[0] ?? '';
const ping = (from: TestNetns, to: string): Promise<string> => from.exec(['ping', '-n', '-c', '1', '-w', '60', to]);

type Verify = (segment: Segment, pods: readonly { netns: TestNetns; address: string }[]) => Promise<void>;

/** Pods by a plugin that makes links of `lan0`, with addresses of the pool: the links' kind, CHECK, and every address back by DEL. */
async function throughPlugin(segment: Segment, plugin: Plugin, verify: Verify): Promise<void> {
  await using one = await TestNetns.create('pod');
  await using two = await TestNetns.create('pod');
  // One VLAN of one link is one link.
  const namespaces = plugin.type === 'vlan' ? [one] : [one, two];
  const list = segment.list({ ...plugin, ipam: { type: 'weft' } });
  const pods = [];
  for (const netns of namespaces) {
    const attachment = { containerId: netns.name, netns: netns.path, ifname: 'eth0' };
    pods.push({ netns, attachment, address: plain(await list.add(attachment)) });
  }
  for (const { netns, address } of pods) {
    assert.match(address, /^10\.3\d\./);
    const [link] = await netns.json<readonly { linkinfo: { info_kind: string } }[]>(
      ['ip', '-d', '-j', 'link', 'show', 'eth0'], // the kernel's own words
    );
    assert.equal(link?.linkinfo.info_kind, plugin.type);
  }
  assert.equal(await segment.host.leasedAddresses(), pods.length);
  await verify(segment, pods);
  for (const { attachment } of pods) await list.check(attachment);
  for (const { attachment } of pods) await list.del(attachment);
  assert.equal(await segment.host.leasedAddresses(), 0);
  for (const { netns } of pods) assert.doesNotMatch(await netns.exec(['ip', '-o', 'link']), /eth0/);
}

const port = 80;
/** An emulated processor on a busy machine needs minutes for what takes a second. */
const patienceMs = 600_000;

/** A server in the pod that answers with the address it was asked from. */
async function answersSource(pod: Pod): Promise<AsyncDisposable> {
  await pod.netns.exec([
    'sh',
    '-c',
    `socat TCP-LISTEN:${port},fork,reuseaddr SYSTEM:'printf $SOCAT_PEERADDR' >/dev/null 2>&1 & echo $! >/tmp/${pod.netns.name}.pid`,
  ]);
  return {
    [Symbol.asyncDispose]: async () =>
      void (await pod.netns.exec(['sh', '-c', `kill $(cat /tmp/${pod.netns.name}.pid)`])),
  };
}

/** Which source the backend sees of a connection. */
const sourceOf = (from: TestNetns, to: string): Promise<string> =>
  from.exec([
    'sh',
    '-c',
    `for time in 1 2 3 4 5; do socat -u -T 60 TCP:${to},connect-timeout=60 - && exit; done; exit 1`,
  ]);

async function ipvs(): Promise<void> {
  await using lab = await Lab.create(2);
  const [here, there] = [lab.host(0), lab.host(1)];
  const [near, other, far] = [await here.addPod(), await here.addPod(), await there.addPod()];
  const [a, b, c] = [near, other, far].map((pod) => pod.lease.addresses[0] ?? '') as [string, string, string];
  await using _near = await answersSource(near);
  await using _far = await answersSource(far);
  const services = [
    { name: 'near', clusterIp: '10.96.0.10', port, backend: a, backendNode: 'n1' },
    { name: 'far', clusterIp: '10.96.0.20', port, backend: c, backendNode: 'n2', nodePort: 30080 },
  ];
  await using stack = new AsyncDisposableStack();
  const proxied = async ({ netns }: LabHost, nodeName: string, nodeAddress: string): Promise<void> => {
    const program = `${bin}/kube-proxy`;
    const proxy = stack.use(await startKubeProxy({ program, mode: 'ipvs', netns, nodeName, nodeAddress, services }));
    const deadlineMs = performance.now() + patienceMs;
    for (;;) {
      const rules = await netns.exec(['ipvsadm', '-Ln']).catch(() => '');
      // Its masquerade comes after the services, at the end of the same round.
      const translated = await netns.exec(['iptables-save', '-t', 'nat']).catch(() => '');
      const parts = [`${a}:${port}`, `${c}:${port}`, ':30080', '-j MASQUERADE'];
      if (parts.every((part) => `${rules}${translated}`.includes(part))) return;
      assert.ok(performance.now() < deadlineMs, `kube-proxy has made no rules:\n${await proxy.log()}`);
      await sleep(3000);
    }
  };
  await Promise.all([here, there].map((host, index) => proxied(host, `n${index + 1}`, host.wireAddress(4))));
  const seen = {
    'pod to a pod of the same node': await sourceOf(other.netns, `10.96.0.10:${port}`),
    'pod to a pod of another node': await sourceOf(near.netns, `10.96.0.20:${port}`),
    'pod of another node': await sourceOf(far.netns, `10.96.0.10:${port}`),
    'pod to itself': await sourceOf(near.netns, `10.96.0.10:${port}`),
    'node to its own pod': await sourceOf(here.netns, `10.96.0.10:${port}`),
    'node to a pod of another node': await sourceOf(here.netns, `10.96.0.20:${port}`),
    'outside to a NodePort, pod on another node': await sourceOf(lab.outside, `${here.wireAddress(4)}:30080`),
  };
  assert.deepEqual(seen, {
    'pod to a pod of the same node': b,
    'pod to a pod of another node': a,
    'pod of another node': c,
    'pod to itself': here.wireAddress(4),
    'node to its own pod': here.wireAddress(4),
    'node to a pod of another node': here.overlayOf(4),
    'outside to a NodePort, pod on another node': here.overlayOf(4),
  });
}

async function vlanAndIpvlan(): Promise<void> {
  await using segment = await Segment.create();
  await throughPlugin(segment, { type: 'vlan', master: 'lan0', vlanId: 7 }, async ({ there }, [pod]) => {
    assert.ok(pod);
    await there.exec(['ip', 'link', 'add', 'link', 'lan1', 'name', 'lan1.7', 'type', 'vlan', 'id', '7']);
    await there.exec(['sh', '-ec', 'ip addr add 10.46.0.1/12 dev lan1.7; ip link set lan1.7 up']);
    await ping(pod.netns, '10.46.0.1');
    await ping(there, pod.address);
    await there.exec(['ip', 'link', 'del', 'lan1.7']);
  });
  await throughPlugin(segment, { type: 'ipvlan', master: 'lan0', mode: 'l2' }, async ({ there }, [one, two]) => {
    assert.ok(one && two);
    await there.exec(['ip', 'addr', 'add', '10.46.0.1/12', 'dev', 'lan1']);
    await ping(one.netns, two.address);
    await ping(one.netns, '10.46.0.1');
    await ping(there, two.address);
  });
}

export const checks: Readonly<Record<string, () => Promise<void>>> = {
  'kube-proxy in mode ipvs: Services keep the sources of pods and hide those of nodes': ipvs,
  'vlan and ipvlan: pods have addresses of the pool and reach each other and their segment': vlanAndIpvlan,
};
