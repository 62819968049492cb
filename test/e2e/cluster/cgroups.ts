// The cluster's corner of each cgroup v1 hierarchy: /sys/fs/cgroup/HIERARCHY/weft-e2e/NODE. Only these directories outlive a
// killed run (everything else hangs on a namespace), so they are removed by name.
import { existsSync } from 'node:fs';
import { mkdir, readdir, readFile, rmdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { until } from './host.ts';
import { clusterName } from './settings.ts';

const mounts = '/sys/fs/cgroup';

async function hierarchies(): Promise<readonly string[]> {
  if (existsSync(join(mounts, 'cgroup.controllers'))) {
    throw new Error(
      'the test cluster needs cgroup v1 hierarchies under /sys/fs/cgroup; this machine has only cgroup v2',
    );
  }
  const entries = await readdir(mounts, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(mounts, entry.name));
}

/** Makes the corner and the node's directory in it; cpuset needs its parent's sets before it takes a process. */
export async function makeCgroups(node: string): Promise<void> {
  for (const hierarchy of await hierarchies()) {
    for (const path of [join(hierarchy, clusterName), join(hierarchy, clusterName, node)]) {
      await mkdir(path, { recursive: true });
      for (const file of ['cpuset.cpus', 'cpuset.mems']) {
        if (!existsSync(join(path, file))) continue;
        await writeFile(join(path, file), await readFile(join(path, '..', file), 'utf8'));
      }
    }
  }
}

/** Shell words that move the shell itself into the node's cgroups. */
export function joinCgroups(node: string): string {
  return `for c in ${mounts}/*/${clusterName}/${node}; do echo $$ >"$c/cgroup.procs"; done`;
}

/** Removes the node's cgroups, or the whole corner when no node is named. Their processes must be dead or dying. */
export async function removeCgroups(node?: string): Promise<void> {
  for (const hierarchy of await hierarchies()) {
    const path = join(hierarchy, clusterName, node ?? '');
    if (existsSync(path)) await removeTree(path);
  }
}

async function removeTree(path: string): Promise<void> {
  for (const entry of await readdir(path, { withFileTypes: true })) {
    if (entry.isDirectory()) await removeTree(join(path, entry.name));
  }
  await until(`${path} is empty`, 10_000, async () => {
    await rmdir(path);
    return true;
  });
}
