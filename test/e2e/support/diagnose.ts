// What an engineer would look at first, saved beside the report when a spec fails: objects of the cluster, the agents' logs and
// status, and each node's kernel state in its tools' own words.
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import type { Cluster } from '../cluster/cluster.ts';
import type { RunResult } from '../cluster/host.ts';

const nodeCommands: Readonly<Record<string, string>> = {
  'ip-link': 'ip -d -s link',
  'ip-addr': 'ip addr',
  'ip-route': 'ip route show table all; ip nexthop; ip rule',
  'ip-neigh': 'ip -d neigh',
  fdb: 'bridge -d fdb',
  nft: 'nft list ruleset',
  iptables: 'iptables-save',
  conntrack: 'conntrack -L 2>/dev/null | head -500',
  sysctl: 'sysctl -a 2>/dev/null | grep -E "ip_forward|rp_filter"',
  cni: 'ls -la /etc/cni/net.d /opt/cni/bin /run/weft /var/lib/weft; cat /etc/cni/net.d/*',
  status: 'curl -sS --max-time 3 http://127.0.0.1:6785/api/status',
  processes: 'ps axf',
};

const clusterCommands: Readonly<Record<string, readonly string[]>> = {
  objects: ['get', 'all', '-A', '-o', 'wide'],
  nodes: ['get', 'nodes', '-o', 'yaml'],
  ring: ['get', 'universes.weft.network,peers.weft.network', '-o', 'yaml'],
  events: ['get', 'events', '-A', '--sort-by=.lastTimestamp'],
  'weft-pods': ['-n', 'weft', 'describe', 'pods'],
  'weft-log': ['-n', 'weft', 'logs', '-l', 'app.kubernetes.io/name=weft', '--all-containers', '--prefix', '--tail=-1'],
  'weft-log-previous': [
    '-n',
    'weft',
    'logs',
    '-l',
    'app.kubernetes.io/name=weft',
    '--prefix',
    '--tail=-1',
    '--previous',
  ],
};

/** Writes one file per look into `directory`. Never throws: a look that fails is a file that says so. */
export async function saveDiagnosis(cluster: Cluster, directory: string): Promise<void> {
  await mkdir(directory, { recursive: true });
  const looks: Promise<void>[] = [];
  for (const [name, args] of Object.entries(clusterCommands)) {
    looks.push(save(join(directory, `${name}.txt`), cluster.plane.tryKubectl(args, { timeoutMs: 15_000 })));
  }
  for (const node of cluster.nodes) {
    for (const [name, command] of Object.entries(nodeCommands)) {
      const look = node.attempt(['sh', '-c', command], { timeoutMs: 15_000 });
      looks.push(save(join(directory, `${node.name}-${name}.txt`), look));
    }
  }
  await Promise.all(looks);
}

async function save(file: string, look: Promise<RunResult>): Promise<void> {
  const text = await look.then(
    ({ code, stdout, stderr }) => `${stdout}${stderr}${code === 0 ? '' : `\nexit ${code}\n`}`,
    (error: unknown) => String(error),
  );
  await writeFile(file, text).catch(() => undefined);
}
