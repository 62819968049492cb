// For people: boots a test cluster and keeps it until Ctrl-C; a second terminal looks inside.
//   node test/e2e/cluster/cli.ts up [--nodes 3] [--proxy nftables|iptables] [--cni none|bridge] [--families ipv4|dual|ipv6]
//                                       [--control-plane outside|node] [--weft]
//   node test/e2e/cluster/cli.ts kubectl ARG…
//   node test/e2e/cluster/cli.ts exec n1|outside COMMAND…
import { spawnSync } from 'node:child_process';
import { mkdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { manifestPath } from '../../../deploy/generate.ts';
import { ensureWeftImage } from '../image.ts';
import { Cluster } from './cluster.ts';
import { ensureImages } from './images.ts';
import { ensurePrograms } from './programs.ts';
import { runInSandbox, sandboxPidFile, workDirectory } from './sandbox.ts';
import { clusterName, oneOf, pathInNodes, type ClusterPaths, type ClusterSettings } from './settings.ts';

const directory = join('/run', clusterName);
const say = (line: string): void => console.error(line);

async function up(args: readonly string[]): Promise<number> {
  const { values } = parseArgs({
    args: [...args],
    options: {
      nodes: { type: 'string', default: '3' },
      proxy: { type: 'string', default: 'nftables' },
      cni: { type: 'string', default: 'none' },
      families: { type: 'string', default: 'ipv4' },
      'control-plane': { type: 'string', default: 'outside' },
      weft: { type: 'boolean', default: false },
    },
  });
  const bin = await ensurePrograms(say);
  const logs = join(directory, 'logs');
  await rm(logs, { recursive: true, force: true });
  await mkdir(logs, { recursive: true });
  const ours = values.weft ? [await ensureWeftImage(say)] : [];
  const images = [...(await ensureImages(bin, say)), ...ours];
  const paths: ClusterPaths = { bin, images, work: workDirectory(), logs };
  const settings: ClusterSettings = {
    nodes: Number(values.nodes),
    proxyMode: oneOf(['nftables', 'iptables'], values.proxy),
    families: oneOf(['ipv4', 'dual', 'ipv6'], values.families),
    controlPlane: oneOf(['outside', 'node'], values['control-plane']),
    cni: oneOf(['none', 'bridge'], values.cni),
  };
  const env = {
    WEFT_E2E_PATHS: JSON.stringify(paths),
    WEFT_E2E_SETTINGS: JSON.stringify(settings),
    WEFT_E2E_APPLY: String(values.weft),
  };
  return await runInSandbox(new URL(import.meta.url).pathname, ['inside'], env, () =>
    say('another cluster runs; waiting'),
  );
}

async function inside(): Promise<number> {
  const beganMs = performance.now();
  const paths = JSON.parse(process.env['WEFT_E2E_PATHS'] ?? '') as ClusterPaths;
  const settings = JSON.parse(process.env['WEFT_E2E_SETTINGS'] ?? '') as ClusterSettings;
  const stop = new Promise<void>((resolve) => {
    process.once('SIGINT', () => resolve());
    process.once('SIGTERM', () => resolve());
  });
  const stamp = (line: string): void =>
    say(`${((performance.now() - beganMs) / 1000).toFixed(1).padStart(6)} s  ${line}`);
  await using cluster = await Cluster.up(paths, settings, stamp);
  if (settings.cni === 'bridge') {
    await cluster.plane.kubectl(['wait', '--for=condition=Ready', 'node', '--all', '--timeout=120s']);
    stamp('nodes Ready');
    await cluster.plane.kubectl(['-n', 'kube-system', 'rollout', 'status', 'deployment/coredns', '--timeout=120s']);
    stamp('CoreDNS available');
  }
  if (process.env['WEFT_E2E_APPLY'] === 'true') {
    await cluster.plane.kubectl(['apply', '-f', manifestPath]);
    stamp('weft.yaml applied');
  }
  await writeFile(join(directory, 'paths.json'), JSON.stringify(paths));
  stamp('up; Ctrl-C takes it down');
  const keepAlive = setInterval(() => undefined, 60_000);
  await stop;
  clearInterval(keepAlive);
  return 0;
}

/** Runs a command in the sandbox of the cluster that `up` holds. */
async function within(command: (paths: ClusterPaths) => readonly string[]): Promise<number> {
  const paths = JSON.parse(await readFile(join(directory, 'paths.json'), 'utf8')) as ClusterPaths;
  const enter = ['-t', await readFile(sandboxPidFile, 'utf8'), '-m', '-n', '-p'];
  return spawnSync('nsenter', [...enter, ...command(paths)], { stdio: 'inherit' }).status ?? 1;
}

const [verb = '', ...rest] = process.argv.slice(2);
switch (verb) {
  case 'up':
    process.exitCode = await up(rest);
    break;
  case 'inside':
    process.exitCode = await inside();
    break;
  case 'kubectl':
    process.exitCode = await within((paths) => [
      join(paths.bin, 'kubectl'),
      `--kubeconfig=${paths.work}/pki/admin.kubeconfig`,
      ...rest,
    ]);
    break;
  case 'exec': {
    const [machine = '', ...command] = rest;
    process.exitCode = await within((paths) =>
      machine === 'outside'
        ? ['ip', 'netns', 'exec', machine, ...command]
        : [
            'sh',
            '-c',
            `pid=$(cat "$1"); shift; exec nsenter -t "$pid" -m -u -i -n -p -C -r -w env '${pathInNodes}' "$@"`,
            'sh',
            `${paths.work}/${machine}/init.pid`,
            ...command,
          ],
    );
    break;
  }
  default:
    say(
      'usage: cli.ts up [--nodes N] [--proxy nftables|iptables] [--cni none|bridge] | kubectl ARG… | exec MACHINE COMMAND…',
    );
    process.exitCode = 2;
}
