// Without Kubernetes: nerdctl over Debian's containerd and runc, on two hosts of the lab with Weft's own configuration.

import { type ChildProcess } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, open, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { type Host, onHost } from '#test/lab/hosts.ts';
import { run } from '#test/support/netns.ts';
import { RuntimeLab } from './lab.ts';
import { ensurePrograms, type Programs } from './programs.ts';

let programs: Programs;
let lab: RuntimeLab;
let image = '';
const daemons: ChildProcess[] = [];
const patient = { timeout: 30_000 } as const;

const placeOf = (host: Host): string => join(lab.directory, host.name);
const socketOf = (host: Host): string => join(placeOf(host), 'containerd.sock');

beforeAll(async () => {
  programs = await ensurePrograms();
  lab = await RuntimeLab.start();
  image = await imageOf(programs.image, join(lab.directory, 'image'));
  for (const host of lab.hosts) {
    daemons.push(await startContainerd(host));
    // nerdctl makes a network of its own before anything else, and wants its plugins to be there.
    const plugins = ['bridge', 'portmap', 'firewall', 'tuning', 'host-local'].map((name) => `/usr/lib/cni/${name}`);
    await lab.on(host, ['cp', ...plugins, '/opt/cni/bin/']);
  }
}, 600_000);

afterAll(async () => {
  for (const host of lab.hosts) await nerdctl(host, 'rm', '-f', 'first', 'second').catch(() => '');
  for (const daemon of daemons) {
    const ended = new Promise((resolve) => daemon.once('exit', resolve));
    daemon.kill('SIGKILL');
    await ended;
  }
  await lab[Symbol.asyncDispose]();
});

async function startContainerd(host: Host): Promise<ChildProcess> {
  const place = placeOf(host);
  await mkdir(place);
  const config = `version = 2
root = "${place}/root"
state = "${place}/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
address = "${socketOf(host)}"
`;
  await writeFile(join(place, 'config.toml'), config);
  const log = await open(join(place, 'log'), 'a');
  const command = onHost(host, ['containerd', '--config', join(place, 'config.toml')]);
  const daemon = lab.runner.start(command, ['ignore', log.fd, log.fd]);
  await log.close();
  return daemon;
}

async function nerdctl(host: Host, ...words: readonly string[]): Promise<string> {
  const places = [
    '--address',
    socketOf(host),
    '--data-root',
    join(placeOf(host), 'nerdctl'),
    '--snapshotter',
    'native',
  ];
  const network = ['--cni-path', '/opt/cni/bin', '--cni-netconfpath', '/etc/cni/net.d', '--cgroup-manager', 'cgroupfs'];
  return await lab.on(host, [programs.nerdctl, ...places, ...network, ...words]);
}

/** An image with one layer, as `docker save` writes it, named web:1. */
async function imageOf(layer: string, directory: string): Promise<string> {
  await mkdir(directory);
  const bytes = await readFile(layer);
  const diffId = `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
  const architecture = process.arch === 'arm64' ? 'arm64' : 'amd64';
  const config = { architecture, os: 'linux', config: {}, rootfs: { type: 'layers', diff_ids: [diffId] } };
  await writeFile(join(directory, 'layer.tar'), bytes);
  await writeFile(join(directory, 'config.json'), JSON.stringify(config));
  const manifest = [{ Config: 'config.json', RepoTags: ['web:1'], Layers: ['layer.tar'] }];
  await writeFile(join(directory, 'manifest.json'), JSON.stringify(manifest));
  await run(['tar', '-C', directory, '-cf', `${directory}.tar`, 'manifest.json', 'config.json', 'layer.tar']);
  return `${directory}.tar`;
}

async function fetched(host: Host, container: string, url: string): Promise<string> {
  return await nerdctl(host, 'exec', container, '/web', 'get', url).catch((error: unknown) => String(error));
}

async function addressOf(host: Host, container: string): Promise<string> {
  return await nerdctl(host, 'inspect', container, '--format', '{{.NetworkSettings.IPAddress}}');
}

test('containers of two hosts reach each other and a published port, and nothing stays', async () => {
  const [one, two] = lab.hosts;
  for (const host of lab.hosts)
    await expect.poll(() => nerdctl(host, 'load', '-i', image).catch(String), patient).toContain('web:1');
  expect(await nerdctl(one, 'network', 'ls', '--format', '{{.Name}}')).toContain('weft');
  const start = async (host: Host, name: string, ...more: readonly string[]): Promise<string> =>
    await nerdctl(
      host,
      'run',
      '-d',
      '--name',
      name,
      '--hostname',
      name,
      '--net',
      'weft',
      ...more,
      'web:1',
      '/web',
      'serve',
    );
  await start(one, 'first', '-p', '8095:80');
  await start(two, 'second');
  const [first, second] = [await addressOf(one, 'first'), await addressOf(two, 'second')];
  expect(first).toMatch(/^10\.\d+\.\d+\.\d+$/);
  await expect.poll(() => fetched(two, 'second', `http://${first}/`), patient).toBe('hello from first');
  await expect.poll(() => fetched(one, 'first', `http://${second}/`), patient).toBe('hello from second');
  await expect.poll(() => fetched(two, 'second', `http://${one.address}:8095/`), patient).toBe('hello from first');
  expect([await lab.leases(one), await lab.leases(two)]).toEqual([1, 1]);
  await nerdctl(one, 'stop', '-t', '0', 'first');
  await expect.poll(() => lab.leases(one), patient).toBe(0);
  await nerdctl(one, 'start', 'first');
  const again = await addressOf(one, 'first');
  await expect.poll(() => fetched(two, 'second', `http://${again}/`), patient).toBe('hello from first');
  await nerdctl(one, 'rm', '-f', 'first');
  await nerdctl(two, 'rm', '-f', 'second');
  await expect.poll(async () => [await lab.leases(one), await lab.leases(two)], patient).toEqual([0, 0]);
});
