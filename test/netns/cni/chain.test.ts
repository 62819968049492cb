// Weft in a list with Debian's reference plugins: before `bandwidth`, `tuning` and `portmap` (which change what it made), behind another
// plugin whose result it passes on, and results in every version.

import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { createBinDir, createCniHost, createOutside } from '#test/support/cni-host.ts';
import { type Attachment, ConfList, type ListOptions, type Plugin } from '#test/support/conf-list.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';

interface Result {
  readonly interfaces: readonly { readonly name: string; readonly mac: string; readonly sandbox?: string }[];
  readonly ips: readonly { readonly address: string; readonly interface: number }[];
}

let host: AgentHost;
let hostNetns: TestNetns;
let outside: TestNetns;
let binDir = '';

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
  binDir = await createBinDir(host);
  outside = await createOutside(hostNetns);
});

afterAll(async () => {
  await host[Symbol.asyncDispose]();
  await outside[Symbol.asyncDispose]();
});

function list(plugins: readonly Plugin[], more: Partial<ListOptions> = {}): ConfList {
  const env = { WEFT_SOCKET: host.socketPath, WEFT_SPOOL_DIR: host.spoolDir };
  return new ConfList({ name: 'weft', cniVersion: '1.0.0', plugins, hostNetns: hostNetns.path, binDir, env, ...more });
}

const at = (pod: TestNetns): Attachment => ({ containerId: pod.name, netns: pod.path, ifname: 'eth0' });
const gone = (pod: TestNetns): Attachment => ({ ...at(pod), netns: '' });

test('before bandwidth and tuning: shaped, another MAC, reached, checked, and nothing stays', async () => {
  const pod = await TestNetns.create('pod');
  await using other = await TestNetns.create('pod');
  const mac = '0a:11:22:33:44:55';
  const chain = list(
    [
      { type: 'weft' },
      { type: 'bandwidth', capabilities: { bandwidth: true } },
      { type: 'tuning', capabilities: { mac: true }, mtu: 1300, promisc: true },
    ],
    {
      runtimeConfig: {
        bandwidth: { ingressRate: 8e6, ingressBurst: 8e6, egressRate: 8e6, egressBurst: 8e6 },
        mac,
      },
    },
  );
  expect(await host.cni('ADD', { netns: other.path })).toMatchObject({ code: 0 });
  const before = await kernelDump(hostNetns);
  const result = (await chain.add(at(pod))) as unknown as Result;
  const inPod = result.interfaces.find(({ sandbox }) => sandbox === pod.path);
  expect(inPod).toMatchObject({ name: 'eth0', mac });
  const address = result.ips[0]?.address.split('/')[0] ?? '';
  const [eth0] = await pod.json(['ip', '-j', 'link', 'show', 'eth0']);
  expect(eth0).toMatchObject({ address: mac, mtu: 1300 });
  const hostEnd = result.interfaces[0]?.name ?? '';
  expect(await hostNetns.exec(['tc', 'qdisc', 'show', 'dev', hostEnd])).toContain('tbf');
  // The neighbour that ADD filled in has the old MAC until it is probed.
  await expect
    .poll(() => hostNetns.exec(['ping', '-c', '1', '-W', '1', address]).catch(String), { timeout: 20_000 })
    .toContain(' 0% packet loss');
  await other.exec(['ping', '-c', '1', '-W', '2', address]);
  await chain.check(at(pod));
  await pod[Symbol.asyncDispose]();
  await chain.del(gone(pod));
  await chain.del(gone(pod));
  await expect.poll(() => kernelDump(hostNetns), { timeout: 10_000 }).toEqual(before);
  expect(await host.cni('DEL', { netns: other.path })).toMatchObject({ code: 0 });
});

test('before portmap: the pod’s port is reached from outside and from the node', async () => {
  await using pod = await TestNetns.create('pod');
  const chain = list([{ type: 'weft' }, { type: 'portmap', capabilities: { portMappings: true }, snat: true }], {
    runtimeConfig: { portMappings: [{ hostPort: 8088, containerPort: 80, protocol: 'tcp' }] },
  });
  await chain.add(at(pod));
  const server = pod.exec([
    process.execPath,
    '-e',
    // Two answers, then it ends.
    "let n=0; const s=require('net').createServer((c)=>{c.end('hello'); if(++n===2) s.close()}).listen(80); setTimeout(()=>process.exit(),60000).unref()",
  ]);
  const fetched = (from: TestNetns, address: string): Promise<string> =>
    from.exec([
      process.execPath,
      '-e',
      `const c=require('net').connect(8088,'${address}');c.on('data',(d)=>{console.log(String(d));process.exit()});c.on('error',()=>process.exit(1))`,
    ]);
  await expect.poll(() => fetched(outside, '203.0.113.1').catch(String), { timeout: 30_000 }).toContain('hello');
  await expect.poll(() => fetched(hostNetns, '203.0.113.1').catch(String), { timeout: 30_000 }).toContain('hello');
  // Debian's portmap looks for an IPv6 chain that an IPv4 pod has not.
  await chain.check(at(pod), ['weft']);
  await chain.del(at(pod));
  await expect(fetched(outside, '203.0.113.1')).rejects.toThrow('8088');
  await server;
});

test('behind another plugin: its result is passed on, Weft’s own interfaces come after', async () => {
  await using pod = await TestNetns.create('pod');
  const first: Result & { readonly cniVersion: string } = {
    cniVersion: '1.0.0',
    interfaces: [{ name: 'aux0', mac: '0a:00:00:00:00:01' }],
    ips: [{ address: '10.77.0.9/24', interface: 0 }],
  };
  const conf = { cniVersion: '1.0.0', prevResult: { ...first, dns: { domain: 'first.test' } } };
  const added = await host.cni('ADD', { netns: pod.path, conf });
  expect(added).toMatchObject({
    code: 0,
    json: {
      cniVersion: '1.0.0',
      interfaces: [{ name: 'aux0' }, { name: expect.stringMatching(/^weftp/) as string }, { name: 'eth0' }],
      ips: [{ address: '10.77.0.9/24', interface: 0 }, { interface: 2 }],
      dns: { domain: 'first.test' },
    },
  });
  const checked = await host.cni('CHECK', { netns: pod.path, conf: { cniVersion: '1.0.0', prevResult: added.json } });
  expect(checked).toMatchObject({ code: 0, stdout: '' });
  expect(await host.cni('DEL', { netns: pod.path, conf: { prevResult: added.json } })).toMatchObject({ code: 0 });
});

test.each(['0.1.0', '0.2.0', '0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'])(
  'the result in CNI %s',
  async (cniVersion) => {
    await using pod = await TestNetns.create('pod');
    const added = await host.cni('ADD', { netns: pod.path, conf: { cniVersion } });
    expect(added).toMatchObject({ code: 0, json: { cniVersion } });
    const json = added.json ?? {};
    const ip = expect.stringMatching(/^10\.32\.\d+\.\d+\/32$/) as string;
    const routes = [{ dst: '0.0.0.0/0', gw: '169.254.1.1' }];
    const isNew = cniVersion >= '1.0.0';
    if (cniVersion < '0.3.0') {
      expect(json).toEqual({ cniVersion, ip4: { ip, gateway: '169.254.1.1', routes } });
    } else {
      const mac = expect.stringMatching(/^([0-9a-f]{2}:){5}[0-9a-f]{2}$/) as string;
      const mtu = cniVersion === '1.1.0' ? { mtu: 1450 } : {};
      expect(json).toEqual({
        cniVersion,
        interfaces: [
          { name: expect.stringMatching(/^weftp/) as string, mac, ...mtu },
          { name: 'eth0', mac, sandbox: pod.path, ...mtu },
        ],
        ips: [{ ...(isNew ? {} : { version: '4' }), address: ip, gateway: '169.254.1.1', interface: 1 }],
        routes,
      });
    }
    expect(await host.cni('DEL', { netns: pod.path, conf: { cniVersion, prevResult: json } })).toMatchObject({
      code: 0,
    });
  },
);
