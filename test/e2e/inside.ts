// The part of an e2e run that lives in the sandbox: boots what the specs need, serves weft.yaml, runs vitest, saves what an
// engineer needs when something failed. Arguments: `api` or `cluster`, then vitest's own.
import { spawn } from 'node:child_process';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { Cluster } from './cluster/cluster.ts';
import { run } from './cluster/host.ts';
import { saveDiagnosis } from './support/diagnose.ts';
import { currentRun } from './support/environment.ts';
import { serveManifest } from './support/manifest-server.ts';

const beganMs = performance.now();
const say = (line: string): void => {
  console.log(`${((performance.now() - beganMs) / 1000).toFixed(1).padStart(7)} s  ${line}`);
};

async function runSpecs(
  project: string,
  args: readonly string[],
  env: Readonly<Record<string, string>>,
): Promise<number> {
  const { report } = currentRun();
  const vitest = new URL('../../node_modules/vitest/vitest.mjs', import.meta.url).pathname;
  const flags = [
    'run',
    '--config',
    'test/e2e/vitest.config.ts',
    '--project',
    project,
    '--reporter=test/e2e/support/reporter.ts',
  ];
  const child = spawn(process.execPath, [vitest, ...flags, ...args], {
    stdio: 'inherit',
    env: { ...process.env, ...env, WEFT_E2E_COUNTS: join(report, `${project}.json`) },
  });
  const stop = (): void => void child.kill('SIGKILL');
  process.once('SIGINT', stop).once('SIGTERM', stop);
  return await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

/** The contract starts an API server of its own on loopback. */
async function api(args: readonly string[]): Promise<number> {
  await run(['ip', 'link', 'set', 'lo', 'up']);
  return await runSpecs('registry', args, { WEFT_E2E_BIN: currentRun().paths.bin });
}

async function wholeCluster(args: readonly string[]): Promise<number> {
  const { paths, settings, report } = currentRun();
  await using cluster = await Cluster.up(paths, settings, say);
  await using _server = await serveManifest(settings);
  const code = await runSpecs('cluster', args, { KUBECONFIG: cluster.plane.kubeconfig });
  if (code !== 0) await saveDiagnosis(cluster, join(report, 'diagnosis'));
  return code;
}

/** A daemon that ends while the cluster boots says why at the end of its log. */
async function bootFailure(error: unknown): Promise<number> {
  console.error(error instanceof Error ? error.message : error);
  const { paths } = currentRun();
  for (const daemon of ['etcd', 'kube-apiserver', 'n1-init', 'n1-containerd', 'n1-kubelet']) {
    const log = await readFile(join(paths.logs, `${daemon}.log`), 'utf8').catch(() => '');
    if (log !== '') console.error(`--- ${daemon}.log\n${log.trimEnd().split('\n').slice(-8).join('\n')}`);
  }
  return 1;
}

const [scope, ...rest] = process.argv.slice(2);
process.exitCode = await (scope === 'api' ? api(rest) : wholeCluster(rest)).catch(bootFailure);
// Whatever still holds the event loop hangs on a dead cluster.
process.exit();
