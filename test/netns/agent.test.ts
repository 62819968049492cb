// The agent as a process, seen from outside: what it serves while it starts, that stopping leaves the kernel as it is, and that
// it goes on from its durable copy when the registry is away.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { openStore } from '#agent/runtime/store.ts';
import type { Status } from '#agent/observe/status.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';
import { programPath } from '#test/support/programs.ts';

const weft = programPath('weft');
const inside = (host: AgentHost): TestNetns => {
  if (host.netns === undefined) throw new Error('the host has a namespace');
  return host.netns;
};

/** The kernel's state as its own tools tell it, without counters and ages. */
async function kernel(host: AgentHost): Promise<string> {
  const netns = inside(host);
  const told = await Promise.all([
    netns.exec(['ip', '-d', 'link', 'show', 'weft0']),
    netns.exec(['ip', 'address', 'show', 'dev', 'weft0']),
    // Weft's own: the host's links get and lose link-local addresses as they please.
    netns.exec(['ip', '-4', 'route', 'show', 'table', 'all', 'proto', '87']),
    netns.exec(['ip', '-6', 'route', 'show', 'table', 'all', 'proto', '87']),
    netns.exec(['ip', 'nexthop']),
    netns.exec(['nft', '--stateless', 'list', 'ruleset']),
  ]);
  return told.join('\n');
}

/** By the command, as a person asks. */
async function status(host: AgentHost): Promise<Status> {
  return JSON.parse(await inside(host).exec([process.execPath, weft, 'status', '--json'])) as Status;
}

async function until<T>(probe: () => Promise<T | undefined>): Promise<T> {
  const deadline = performance.now() + 60_000;
  for (;;) {
    const found = await probe().catch(() => undefined);
    if (found !== undefined) return found;
    if (performance.now() > deadline) throw new Error('it did not come to pass in 60 s');
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** After a kill a stale socket and the mark of a predecessor make STATUS succeed before the agent is there. */
const ready = async (host: AgentHost): Promise<Status> =>
  until(async () => {
    const now = await host.status();
    return now.ready ? now : undefined;
  });

describe('agent', { timeout: 180_000 }, () => {
  it('stops by SIGTERM without touching the kernel, and its successor adopts what is there', async () => {
    await using host = await AgentHost.create('own netns');
    await using pod = await TestNetns.create('pod');
    await host.start();
    expect((await host.cni('ADD', { netns: pod.path })).code).toBe(0);
    const before = await kernel(host);
    await host.stop('SIGTERM');
    expect(await host.log()).toMatch(/stopping; the kernel state stays[^]*$/);
    expect(existsSync(host.socketPath)).toBe(false);
    expect(existsSync(String(host.settings['conflistPath']))).toBe(true);
    expect(await kernel(host)).toBe(before);
    await host.start();
    expect(await ready(host)).toMatchObject({ leasesTotal: 1, findings: [] });
    expect(await kernel(host)).toBe(before);
    expect((await host.cni('DEL', { netns: pod.path })).code).toBe(0);
  });

  it('serves ADDs from its durable copy while no majority of voters answers', async () => {
    await using host = await AgentHost.create('own netns');
    await using pod = await TestNetns.create('pod');
    await host.start();
    await host.stop('SIGKILL');
    // The other two voters do not exist: from here on nothing can be agreed.
    const nodes = ['1', '2', '3'].map((at) => ({ name: `host${at}`, addresses: [`192.168.50.${at}`] }));
    const lonely = { ...host.settings, nodes, voters: nodes.map(({ name }) => name) };
    await writeFile(join(host.directory, 'config.json'), JSON.stringify(lonely));
    await host.start();
    await ready(host);
    expect((await host.cni('ADD', { netns: pod.path })).code).toBe(0);
    const now = await status(host);
    expect(now).toMatchObject({ ready: true, leasesTotal: 1, registry: { engine: 'peers', answeredAtMs: null } });
    expect((await host.cni('DEL', { netns: pod.path })).code).toBe(0);
  });

  it('that has lost its leases finds them in the kernel and cuts no pod', async () => {
    await using host = await AgentHost.create('own netns', { sessionTermMs: 1000, restTimeMs: 500 });
    await using pod = await TestNetns.create('pod');
    await using later = await TestNetns.create('pod');
    await host.start();
    const link = {
      portMappings: [
        { protocol: 'tcp', hostPort: 8080, containerPort: 80 },
        { protocol: 'udp', hostPort: 5353, containerPort: 53, hostIp: '192.168.50.1' },
      ],
      bandwidth: {
        ingress: { bitsPerSecond: 8_000_000, burstBits: 800_000 },
        egress: { bitsPerSecond: 16_000_000, burstBits: 1_600_000 },
      },
    };
    const runtimeConfig = {
      portMappings: link.portMappings.map(({ hostIp, ...mapping }) => ({ ...mapping, hostIP: hostIp ?? '' })),
      bandwidth: { ingressRate: 8_000_000, ingressBurst: 800_000, egressRate: 16_000_000, egressBurst: 1_600_000 },
    };
    expect((await host.cni('ADD', { netns: pod.path, conf: { runtimeConfig } })).code).toBe(0);
    const links = async (): Promise<unknown> => [
      await inside(host).exec(['ip', 'link', 'show', 'type', 'veth']),
      await kernelDump(inside(host)),
    ];
    const before = await links();
    await host.stop('SIGKILL');
    for (const end of ['', '-wal', '-shm']) await rm(join(host.directory, `state/state.db${end}`), { force: true });
    await host.start();
    const [kept] = (await ready(host)).leases;
    expect(kept).toMatchObject({ containerId: pod.name, ifname: 'eth0', state: 'active' });
    await expect.poll(links, { timeout: 20_000 }).toEqual(before);
    await host.stop('SIGKILL');
    const store = openStore(join(host.directory, 'state/state.db'));
    expect(store.load().leases).toMatchObject([{ link }]);
    store.close();
    await host.start();
    await ready(host);
    expect((await host.cni('ADD', { netns: later.path })).code).toBe(0);
    const addresses = (await status(host)).leases.flatMap((lease) => lease.addresses);
    expect(new Set(addresses).size).toBe(2);
    for (const { path } of [pod, later]) expect((await host.cni('DEL', { netns: path })).code).toBe(0);
    expect(await status(host)).toMatchObject({ leasesTotal: 0 });
  });

  it('says while it starts what it waits for, is healthy meanwhile, and ends at once by SIGTERM', async () => {
    const directory = await mkdtemp(join(tmpdir(), 'weft-agent-'));
    await using netns = await TestNetns.create('host');
    const kubeconfig = join(directory, 'kubeconfig');
    const cluster = { name: 'c', cluster: { server: 'https://127.0.0.1:9', 'insecure-skip-tls-verify': true } };
    await writeFile(
      kubeconfig,
      JSON.stringify({
        apiVersion: 'v1',
        kind: 'Config',
        clusters: [cluster],
        users: [{ name: 'u', user: { token: 't' } }],
        contexts: [{ name: 'x', context: { cluster: 'c', user: 'u' } }],
        'current-context': 'x',
      }),
    );
    const settings = ['--kubeconfig', kubeconfig, '--node-name', 'n', '--state-dir', directory, '--run-dir', directory];
    const conflist = ['--conflist-path', join(directory, 'a.conflist')];
    const command = ['nsenter', `--net=${netns.path}`, '--', process.execPath, weft, 'agent', ...settings, ...conflist];
    const agent = spawn(command[0] ?? '', command.slice(1), {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { PATH: process.env['PATH'] },
    });
    let log = '';
    agent.stderr.setEncoding('utf8').on('data', (chunk: string) => (log += chunk));
    const ended = new Promise<number | null>((resolve) => agent.on('close', resolve));
    const program = 'fetch(process.argv[1]).then(async (a) => console.log(`${await a.text()} ${a.status}`))';
    const ask = async (path: string): Promise<string> =>
      (await netns.exec([process.execPath, '-e', program, `http://127.0.0.1:6785${path}`])).trim();
    const waiting = await until(async () => {
      const answer = await ask('/readyz');
      return answer.includes('discovery') ? answer : undefined;
    });
    expect(waiting).toBe('{"ready":false,"waitingFor":"discovery"} 503');
    expect(await ask('/healthz')).toBe('{"ok":true} 200');
    const asked = performance.now();
    agent.kill('SIGTERM');
    expect(await ended, log).toBe(0);
    expect(performance.now() - asked).toBeLessThan(3000);
    await rm(directory, { recursive: true });
  });

  it('obeys the settings of the overlay: MTU, port, VNI, interface', async () => {
    const settings = { mtuBytes: 1300, vxlanPort: 7000, vxlanVni: 7, underlayInterface: 'eth0' };
    await using host = await AgentHost.create('own netns', settings);
    await using pod = await TestNetns.create('pod');
    await host.start();
    expect((await host.cni('ADD', { netns: pod.path })).code).toBe(0);
    const [overlay] = await inside(host).json(['ip', '-d', '-j', 'link', 'show', 'weft0']);
    expect(overlay).toMatchObject({ mtu: 1300, linkinfo: { info_data: { port: 7000, id: 7, local: '192.168.50.1' } } });
    expect(await pod.json(['ip', '-j', 'link', 'show', 'eth0'])).toMatchObject([{ mtu: 1300 }]);
  });

  it('ends with 1 and the name of the setting when a port is taken', async () => {
    await using host = await AgentHost.create('own netns');
    const command = [
      process.execPath,
      '-e',
      'require("net").createServer().listen(6785, "127.0.0.1", () => console.log("up"))',
    ];
    const other = spawn('nsenter', [`--net=${inside(host).path}`, '--', ...command], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    await new Promise((resolve) => other.stdout.once('data', resolve));
    await expect(host.start()).rejects.toThrow(/exit 1/);
    other.kill('SIGKILL');
    expect(await readFile(join(host.directory, 'agent.log'), 'utf8')).toMatch(
      /cannot listen on 127\.0\.0\.1:6785 \(setting statusListen\): EADDRINUSE/,
    );
  });
});
