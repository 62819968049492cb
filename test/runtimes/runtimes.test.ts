// Without Kubernetes: podman 4 with its CNI backend, and libcni's cnitool, on two hosts of the lab with Weft's own configuration.

import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

import type { Host } from '#test/lab/hosts.ts';
import { run } from '#test/support/netns.ts';
import { RuntimeLab } from './lab.ts';
import { ensurePrograms, type Programs } from './programs.ts';

let programs: Programs;
let lab: RuntimeLab;
let hosts: readonly [Host, Host];

beforeAll(async () => {
  programs = await ensurePrograms();
  lab = await RuntimeLab.start();
  ({ hosts } = lab);
}, 600_000);

afterAll(() => lab[Symbol.asyncDispose]());

const on = (host: Host, command: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<string> =>
  lab.on(host, command, env);

async function podman(host: Host, ...words: readonly string[]): Promise<string> {
  const places = ['--root', join(lab.directory, host.name), '--runroot', `/run/podman-${host.name}`];
  const simple = [
    '--storage-driver',
    'vfs',
    '--cgroup-manager',
    'cgroupfs',
    '--runtime',
    'crun',
    '--events-backend',
    'none',
  ];
  return await on(host, ['podman', ...places, ...simple, '--network-backend', 'cni', ...words]);
}

async function start(host: Host, name: string, ...more: readonly string[]): Promise<void> {
  await podman(
    host,
    'run',
    '-d',
    '--cgroups',
    'disabled',
    // podman's own are higher than what a machine without CAP_SYS_RESOURCE may set.
    '--ulimit',
    'host',
    '--hostname',
    name,
    '--name',
    name,
    ...more,
    'web',
    '/web',
    'serve',
  );
}

async function fetched(host: Host, container: string, url: string): Promise<string> {
  return await podman(host, 'exec', container, '/web', 'get', url).catch((error: unknown) => String(error));
}

const leases = (host: Host): Promise<number | undefined> => lab.leases(host);

describe('podman', () => {
  test(
    'containers of two hosts reach each other and a published port, and nothing stays',
    { timeout: 120_000 },
    async () => {
      const [one, two] = hosts;
      for (const host of hosts) await podman(host, 'import', programs.image, 'web');
      expect(await podman(one, 'network', 'ls', '--format', '{{.Name}}')).toContain('weft');
      await start(one, 'first', '--network', 'weft', '-p', '8085:80');
      await start(two, 'second', '--network', 'weft');
      const address = await podman(one, 'inspect', 'first', '--format', '{{.NetworkSettings.Networks.weft.IPAddress}}');
      const other = await podman(two, 'inspect', 'second', '--format', '{{.NetworkSettings.Networks.weft.IPAddress}}');
      expect(address).toMatch(/^10\.\d+\.\d+\.\d+$/);
      await expect
        .poll(() => fetched(two, 'second', `http://${address}/`), { timeout: 20_000 })
        .toBe('hello from first');
      await expect.poll(() => fetched(one, 'first', `http://${other}/`), { timeout: 20_000 }).toBe('hello from second');
      await expect
        .poll(() => fetched(two, 'second', `http://${one.address}:8085/`), { timeout: 20_000 })
        .toBe('hello from first');
      expect([await leases(one), await leases(two)]).toEqual([1, 1]);
      // podman uses an id again: a stopped container starts with the same one.
      await podman(one, 'stop', '-t', '0', 'first');
      await expect.poll(() => leases(one), { timeout: 20_000 }).toBe(0);
      await podman(one, 'start', 'first');
      const again = await podman(one, 'inspect', 'first', '--format', '{{.NetworkSettings.Networks.weft.IPAddress}}');
      await expect.poll(() => fetched(two, 'second', `http://${again}/`), { timeout: 20_000 }).toBe('hello from first');
      await podman(one, 'rm', '-f', '-t', '0', 'first');
      await podman(two, 'rm', '-f', '-t', '0', 'second');
      await expect.poll(async () => [await leases(one), await leases(two)], { timeout: 20_000 }).toEqual([0, 0]);
    },
  );
});

describe('cnitool of libcni 1.3.1', () => {
  const cnitool = async (
    host: Host,
    verb: string,
    netns: string,
    env: Readonly<Record<string, string>> = {},
  ): Promise<string> =>
    await on(host, [programs.cnitool, verb, 'weft', netns], {
      CNI_PATH: '/opt/cni/bin',
      NETCONFPATH: '/etc/cni/net.d',
      CNI_IFNAME: 'eth0',
      ...env,
    });

  test('attaches a container that was started without a network', { timeout: 120_000 }, async () => {
    const [one, two] = hosts;
    for (const host of hosts) await podman(host, 'import', programs.image, 'web');
    await start(one, 'alone', '--network', 'none');
    await start(two, 'client', '--network', 'weft');
    const pid = await podman(one, 'inspect', 'alone', '--format', '{{.State.Pid}}');
    const netns = `/proc/${pid}/ns/net`;
    const CAP_ARGS = JSON.stringify({ portMappings: [{ hostPort: 8086, containerPort: 80, protocol: 'tcp' }] });
    await cnitool(one, 'status', netns);
    const result = JSON.parse(await cnitool(one, 'add', netns, { CAP_ARGS })) as {
      readonly cniVersion: string;
      readonly ips: readonly { readonly address: string }[];
    };
    // libcni takes the newest of cniVersions.
    expect(result.cniVersion).toBe('1.1.0');
    const address = result.ips[0]?.address.split('/')[0] ?? '';
    await expect.poll(() => fetched(two, 'client', `http://${address}/`), { timeout: 20_000 }).toBe('hello from alone');
    await expect
      .poll(() => fetched(two, 'client', `http://${one.address}:8086/`), { timeout: 20_000 })
      .toBe('hello from alone');
    await cnitool(one, 'check', netns, { CAP_ARGS });
    await on(one, ['nsenter', `--net=${netns}`, '--', 'ip', 'route', 'del', 'default']);
    await expect(cnitool(one, 'check', netns, { CAP_ARGS })).rejects.toThrow(/default route/);
    await cnitool(one, 'del', netns, { CAP_ARGS });
    await cnitool(one, 'del', netns, { CAP_ARGS });
    expect(await leases(one)).toBe(0);
    await podman(one, 'rm', '-f', '-t', '0', 'alone');
    await podman(two, 'rm', '-f', '-t', '0', 'client');
  });

  test('GC takes what cnitool no longer calls valid', { timeout: 60_000 }, async () => {
    const [one] = hosts;
    await run(['ip', 'netns', 'add', 'kept']);
    await run(['ip', 'netns', 'add', 'lost']);
    await cnitool(one, 'add', '/run/netns/kept');
    await cnitool(one, 'add', '/run/netns/lost');
    expect(await leases(one)).toBe(2);
    // libcni deletes every attachment that it has cached and cnitool does not call valid, which is all of them; then it calls the
    // plugin's GC without any list, and Weft does not guess what that means.
    await expect(cnitool(one, 'gc', '/run/netns/kept')).rejects.toThrow(/GC got no "cni.dev\/valid-attachments"/);
    expect(await leases(one)).toBe(0);
    for (const name of ['kept', 'lost']) await run(['ip', 'netns', 'delete', name]);
  });
});
