// `npm run test:e2e`: builds what is missing (cluster programs, images, our own image from our Dockerfile), then runs the specs
// against a real API server and a real cluster in a sandbox of namespaces. Ends with `N passed, N failed`.
//   --only registry|cluster    one half
//   --proxy iptables|nftables  kube-proxy's mode (default nftables)
//   --families dual            a dual-stack cluster, and the specs that prove it
//   --conformance              all of upstream's [sig-network] conformance specs instead of the Service specs, and nothing else
//   --reference                the specs of plain reachability against the reference bridge plugin instead of Weft
//   further arguments go to vitest, e.g. 20-reach or -t 'NodePort'
import { existsSync } from 'node:fs';
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { ensureDebianProgram } from './cluster/debian-program.ts';
import { ensureImages } from './cluster/images.ts';
import { ensureExtra, ensurePrograms } from './cluster/programs.ts';
import { runInSandbox, workDirectory } from './cluster/sandbox.ts';
import type { ClusterSettings } from './cluster/settings.ts';
import { ensureWeftImage } from './image.ts';
import { describeRun, type RunDescription } from './support/environment.ts';

const repository = new URL('../..', import.meta.url).pathname;
const report = join(repository, 'build/e2e');
const say = (line: string): void => console.log(`weft: ${line}`);

interface Counts {
  readonly passed: number;
  readonly failed: number;
}

/** A half that ends badly with no failed test to show (the boot failed, a file did not load) counts as one failure. */
async function countsOf(project: string, code: number): Promise<Counts> {
  const text = await readFile(join(report, `${project}.json`), 'utf8').catch(() => undefined);
  if (text === undefined) return { passed: 0, failed: 1 };
  const { passed, failed } = JSON.parse(text) as Counts;
  return { passed, failed: failed === 0 && code !== 0 ? 1 : failed };
}

async function half(scope: 'api' | 'cluster', run: RunDescription, rest: readonly string[]): Promise<Counts> {
  const inside = new URL('./inside.ts', import.meta.url).pathname;
  const code = await runInSandbox(inside, [scope, ...rest], describeRun(run), () => {
    say('another test cluster runs on this machine; waiting for it to end');
  });
  return await countsOf(scope === 'api' ? 'registry' : 'cluster', code);
}

/** Which spec files a run without names of its own takes; none: all. */
function filesOf({ reference, conformance, families }: Readonly<Record<string, unknown>>): readonly string[] {
  if (families === 'dual') return ['10-install', '20-reach', '25-dual-stack'];
  if (conformance === true) return reference === true ? ['90-conformance'] : ['10-install', '90-conformance'];
  return reference === true ? ['20-reach'] : ['--exclude=**/25-dual-stack*'];
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    args: process.argv.slice(2),
    strict: false,
    allowPositionals: true,
    options: {
      only: { type: 'string' },
      proxy: { type: 'string', default: 'nftables' },
      reference: { type: 'boolean', default: false },
      conformance: { type: 'boolean', default: false },
      families: { type: 'string', default: 'ipv4' },
      t: { type: 'string', short: 't' },
    },
  });
  const whole = values['conformance'] === true;
  const rest = [
    ...(positionals.length === 0 ? filesOf(values) : positionals),
    ...(typeof values['t'] === 'string' ? ['-t', values['t']] : []),
  ];
  if (process.getuid?.() !== 0) throw new Error('the test cluster needs root: it makes namespaces and runs containers');
  await rm(report, { recursive: true, force: true });
  await mkdir(report, { recursive: true });
  const beganMs = performance.now();
  const bin = await ensurePrograms(say);
  const images = await ensureImages(bin, say);
  const settings: ClusterSettings = {
    nodes: 3,
    proxyMode: values['proxy'] === 'iptables' ? 'iptables' : 'nftables',
    families: values['families'] === 'dual' ? 'dual' : 'ipv4',
    cni: values['reference'] === true ? 'bridge' : 'none',
  };
  const run: RunDescription = {
    settings,
    report,
    prometheus: values['only'] === 'registry' ? '' : await ensureDebianProgram('prometheus', say),
    conformance: {
      bin: values['only'] === 'registry' ? '' : await ensureExtra('conformance', say),
      scope: whole ? 'all' : 'services',
    },
    paths: { bin, images, work: workDirectory(), logs: join(report, 'logs') },
  };
  const counts: Counts[] = [];
  const registrySpec = existsSync(new URL('./registry.test.ts', import.meta.url));
  if (
    values['only'] !== 'cluster' &&
    values['reference'] !== true &&
    !whole &&
    settings.families === 'ipv4' &&
    registrySpec
  ) {
    // The sandbox has no way out: what the specs need is built before.
    await ensureExtra('helm', say);
    say('registry contract, rights and manifests against a real API server');
    counts.push(await half('api', run, rest));
  }
  if (values['only'] !== 'registry') {
    const ours = settings.cni === 'none' ? [await ensureWeftImage(say)] : [];
    say(`cluster of ${settings.nodes} nodes, kube-proxy in ${settings.proxyMode} mode`);
    counts.push(await half('cluster', { ...run, paths: { ...run.paths, images: [...images, ...ours] } }, rest));
  }
  const passed = counts.reduce((sum, one) => sum + one.passed, 0);
  const failed = counts.reduce((sum, one) => sum + one.failed, 0);
  say(`took ${((performance.now() - beganMs) / 1000).toFixed(0)} s`);
  if (failed > 0) say(`logs and the state at the end are in ${report}`);
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`weft: ${error instanceof Error ? error.message : String(error)}`);
  console.log('0 passed, 1 failed');
  process.exitCode = 1;
}
