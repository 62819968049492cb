// `npm run test:e2e`: builds what is missing (cluster programs, images, our own image from our Dockerfile), then runs the specs
// against a real API server and a real cluster in a sandbox of namespaces. Ends with `N passed, N failed`.
//   --only registry|cluster    one half
//   --proxy iptables|nftables  kube-proxy's mode (default nftables)
//   --families ipv4|dual|ipv6  a cluster of one shape and the specs that prove it; without it two clusters are made, one after
//                              the other: IPv4 with the control plane outside, then IPv6-only with the control plane on a node
//   --control-plane outside|node   where it is: on a machine that is no node, or on the first node (the default with ipv6)
//   --outage-minutes N         how long the API server is away in 45-api-away (default: as long as three rounds of pods take)
//   --conformance              all of upstream's [sig-network] conformance specs instead of the Service specs, and nothing else
//   --reference                the specs of plain reachability against the reference bridge plugin instead of Weft
//   further arguments go to vitest, e.g. 20-reach or -t 'NodePort'
import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { parseArgs } from 'node:util';

import { ensureDebianProgram } from './cluster/debian-program.ts';
import { lockFile } from './cluster/host.ts';
import { ensureImages } from './cluster/images.ts';
import { ensureExtra, ensurePrograms } from './cluster/programs.ts';
import { runInSandbox, workDirectory } from './cluster/sandbox.ts';
import { oneOf, type ClusterSettings, type Families } from './cluster/settings.ts';
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
async function countsOf(directory: string, project: string, code: number): Promise<Counts> {
  const text = await readFile(join(directory, `${project}.json`), 'utf8').catch(() => undefined);
  if (text === undefined) return { passed: 0, failed: 1 };
  const { passed, failed } = JSON.parse(text) as Counts;
  return { passed, failed: failed === 0 && code !== 0 ? 1 : failed };
}

async function half(scope: 'api' | 'cluster', run: RunDescription, rest: readonly string[]): Promise<Counts> {
  await mkdir(run.report, { recursive: true });
  const inside = new URL('./inside.ts', import.meta.url).pathname;
  const code = await runInSandbox(inside, [scope, ...rest], describeRun(run), () => {
    say('another test cluster runs on this machine; waiting for it to end');
  });
  return await countsOf(run.report, scope === 'api' ? 'registry' : 'cluster', code);
}

interface Choices {
  readonly only: 'registry' | 'cluster' | 'all';
  readonly conformance: boolean;
  readonly outageMinutes: number;
  /** Whether spec files were named. */
  readonly named: boolean;
  /** One cluster after another, and the specs that each must pass. */
  readonly shapes: readonly { readonly settings: ClusterSettings; readonly files: readonly string[] }[];
  readonly rest: readonly string[];
}

const smoke = ['10-install', '20-reach'];
const ofShape: Readonly<Record<Families, readonly string[]>> = {
  ipv4: ['--exclude=**/25-dual-stack*', '--exclude=**/85-many-pods*'],
  dual: [...smoke, '25-dual-stack'],
  ipv6: [...smoke, '30-addresses', '50-services', '55-control-plane'],
};

function choices(args: readonly string[]): Choices {
  const { values, positionals } = parseArgs({
    args: [...args],
    strict: false,
    allowPositionals: true,
    options: {
      only: { type: 'string', default: 'all' },
      proxy: { type: 'string', default: 'nftables' },
      reference: { type: 'boolean', default: false },
      conformance: { type: 'boolean', default: false },
      families: { type: 'string' },
      'control-plane': { type: 'string' },
      'outage-minutes': { type: 'string', default: '0' },
      t: { type: 'string', short: 't' },
    },
  });
  const text = (name: string): string => String(values[name] ?? '');
  const [reference, conformance] = [values['reference'] === true, values['conformance'] === true];
  const one = text('families') !== '' || text('control-plane') !== '' || reference || conformance;
  const families = one || positionals.length > 0 ? [text('families') || 'ipv4'] : ['ipv4', 'ipv6'];
  const shapes = families.map((name) => {
    const family = oneOf(['ipv4', 'dual', 'ipv6'], name);
    const settings: ClusterSettings = {
      nodes: 3,
      proxyMode: oneOf(['nftables', 'iptables'], text('proxy')),
      families: family,
      controlPlane: oneOf(['outside', 'node'], text('control-plane') || (family === 'ipv6' ? 'node' : 'outside')),
      cni: reference ? 'bridge' : 'none',
    };
    const conforming = reference ? ['90-conformance'] : ['10-install', '90-conformance'];
    const files = conformance ? conforming : reference ? ['20-reach'] : ofShape[family];
    return { settings, files: positionals.length > 0 ? positionals : files };
  });
  return {
    only: oneOf(['registry', 'cluster', 'all'], text('only')),
    conformance,
    named: positionals.length > 0,
    outageMinutes: Number(text('outage-minutes')),
    shapes,
    rest: text('t') === '' ? [] : ['-t', text('t')],
  };
}

async function main(): Promise<number> {
  const chosen = choices(process.argv.slice(2));
  const { shapes, rest } = chosen;
  const asked = chosen.only === 'registry' || (chosen.only === 'all' && !chosen.conformance && !chosen.named);
  const registry = asked && shapes.some(({ settings }) => isPlain(settings));
  const clusters = chosen.only === 'registry' ? [] : shapes;
  if (process.getuid?.() !== 0) throw new Error('the test cluster needs root: it makes namespaces and runs containers');
  // A second run would take the first one's logs away, which its specs read.
  await using _own = await lockFile(`${report}.lock`, () => say('another run of this tree; waiting for it to end'));
  await rm(report, { recursive: true, force: true });
  await mkdir(report, { recursive: true });
  const beganMs = performance.now();
  const bin = await ensurePrograms(say);
  const images = await ensureImages(bin, say);
  const run = {
    prometheus: clusters.length === 0 ? '' : await ensureDebianProgram('prometheus', say),
    conformance: {
      bin: clusters.some(({ files }) => isUpstreamRun(files)) ? await ensureExtra('conformance', say) : '',
      scope: chosen.conformance ? 'all' : 'services',
    },
    outageMinutes: chosen.outageMinutes,
  } as const;
  const counts: Counts[] = [];
  for (const { settings, files } of registry ? shapes.slice(0, 1) : []) {
    // The sandbox has no way out: what the specs need is built before.
    await ensureExtra('helm', say);
    say('registry contract, rights and manifests against a real API server');
    const paths = { bin, images, work: workDirectory(), logs: join(report, 'logs') };
    const named = files.some((file) => file.startsWith('--')) ? [] : files;
    counts.push(await half('api', { ...run, settings, report, paths }, [...named, ...rest]));
  }
  const ours = clusters.some(({ settings }) => settings.cni === 'none') ? [await ensureWeftImage(say)] : [];
  for (const { settings, files } of clusters) {
    const { nodes, proxyMode, families, controlPlane } = settings;
    say(`cluster of ${nodes} nodes, ${families}, control plane ${controlPlane}, kube-proxy in ${proxyMode} mode`);
    const own = clusters.length === 1 ? report : join(report, families);
    const paths = { bin, images: [...images, ...ours], work: workDirectory(), logs: join(own, 'logs') };
    counts.push(await half('cluster', { ...run, settings, report: own, paths }, [...files, ...rest]));
  }
  const passed = counts.reduce((sum, one) => sum + one.passed, 0);
  const failed = counts.reduce((sum, one) => sum + one.failed, 0);
  say(`took ${((performance.now() - beganMs) / 1000).toFixed(0)} s`);
  if (failed > 0) say(`logs and the state at the end are in ${report}`);
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

/** Whether upstream's suite is among the specs: it takes the longest to build. */
function isUpstreamRun(files: readonly string[]): boolean {
  return files.every((file) => file.startsWith('--')) || files.some((file) => file.includes('90'));
}

/** The registry half knows no cluster; it runs beside the ordinary one. */
function isPlain({ families, cni }: ClusterSettings): boolean {
  return families === 'ipv4' && cni === 'none';
}

try {
  process.exitCode = await main();
} catch (error) {
  console.error(`weft: ${error instanceof Error ? error.message : String(error)}`);
  console.log('0 passed, 1 failed');
  process.exitCode = 1;
}
