// What the tests of the CNI verbs begin with: the real shim and a host of its own with a real agent; a neighbour outside; the directory in
// which the reference plugins find Weft.

import { mkdir, symlink } from 'node:fs/promises';
import { join } from 'node:path';
import { expect } from 'vitest';

import { checkPodLink } from '#agent/datapath/check.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import { openStore } from '#agent/runtime/store.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { TestNetns } from '#test/support/netns.ts';
import { ensureShim, shimPath } from '../../cni-shim/build.ts';

export interface CniHost {
  readonly host: AgentHost;
  readonly hostNetns: TestNetns;
}

/** A host whose agent serves, or, with `isStarted` false, is yet to be started. Freed addresses do not rest unless `settings` say so. */
export async function createCniHost(
  settings: Readonly<Record<string, unknown>> = {},
  isStarted = true,
): Promise<CniHost> {
  ensureShim();
  const host = await AgentHost.create('own netns', { restTimeMs: 0, ...settings });
  if (host.netns === undefined) throw new Error('the host has no namespace of its own');
  if (isStarted) await host.start();
  return { host, hostNetns: host.netns };
}

/** A neighbour, 203.0.113.2, of the host, there 203.0.113.1, that has no route to any pod. */
export async function createOutside(hostNetns: TestNetns): Promise<TestNetns> {
  const outside = await TestNetns.create('out');
  const veth = ['ip', 'link', 'add', 'out0', 'type', 'veth', 'peer', 'name', 'eth0', 'netns', outside.name];
  await hostNetns.exec(veth);
  await hostNetns.exec(['sh', '-ec', 'ip addr add 203.0.113.1/24 dev out0; ip link set out0 up']);
  await outside.exec(['sh', '-ec', 'ip addr add 203.0.113.2/24 dev eth0; ip link set eth0 up']);
  return outside;
}

/** A directory of CNI_PATH that holds the shim as `weft`. */
export async function createBinDir(host: AgentHost): Promise<string> {
  const binDir = join(host.directory, 'plugins');
  await mkdir(binDir);
  await symlink(shimPath, join(binDir, 'weft'));
  return binDir;
}

/** Links are deleted behind the answer to DEL: a test begins when those of the one before are gone. */
export async function awaitNoPodLinks(hostNetns: TestNetns): Promise<void> {
  const names = (): Promise<string> => hostNetns.exec(['ip', '-o', 'link']);
  await expect.poll(names, { timeout: 20_000 }).not.toMatch(/weft[pb][0-9a-f]/);
}

/** What CHECK would say, by the lease on disk: no agent runs that would put it right meanwhile. */
export async function faultsOnDisk({ host, hostNetns }: CniHost, pod: TestNetns): Promise<string> {
  const store = openStore(join(host.directory, 'state/state.db'));
  const lease = store.load().leases.find(({ containerId }) => containerId === pod.name);
  store.close();
  if (lease === undefined) throw new Error(`no lease of ${pod.name}`);
  const settings = { ...defaultDatapathSettings, netnsPath: hostNetns.path };
  using io = openKernelIo(settings);
  const found = await checkPodLink({ io, settings }, { lease, netnsPath: pod.path }, new Map());
  return found.map(({ what }) => what).join('; ');
}
