// ADD and DEL as the runtime sees them, from the plugin's start to its exit: Weft (the real shim and a real agent, bundled as in the image) against Debian's
// reference plugins bridge + host-local, interleaved in one run, so that whatever else the machine does hits both. `ports`: the same
// with a TCP and a UDP port mapping for each pod, which the reference makes by a second plugin, portmap, through iptables.
//
// Every call gets a namespace made beforehand and used once. Between two measurements the kernel is left to finish: neither side pays
// for links that the other is still deleting. How long Weft's links take to be gone is a figure of its own.

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { startsBundled } from '#test/bench/bundled.ts';
import { type Figures, median, rounded } from '#test/bench/figures.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { ensureShim, shimPath } from '../../cni-shim/build.ts';

const referenceDirectory = '/usr/lib/cni';
const warmUps = 15;
const sequentialRounds = 60;
const concurrentRounds = 10;
const atOnce = 16;

/** One of the two that are compared. */
interface Contender {
  readonly name: 'weft' | 'reference';
  readonly program: string;
  readonly confPath: string;
  readonly env: Readonly<Record<string, string>>;
  /** True for the host end of a pod's link. */
  readonly ownsLink: (ifname: string) => boolean;
}

type Samples = Record<'ADD' | 'DEL', number[]>;

interface Measured {
  readonly sequential: Samples;
  readonly concurrent: Samples;
  readonly goneMs: number[];
}

export async function benchAdd(say: (line: string) => void): Promise<Figures> {
  return await compare(say, false);
}

export async function benchPorts(say: (line: string) => void): Promise<Figures> {
  return { ports: await compare(say, true) };
}

async function compare(say: (line: string) => void, ports: boolean): Promise<Figures> {
  if (!existsSync(join(referenceDirectory, 'bridge'))) {
    throw new Error(
      `no reference plugins in ${referenceDirectory} (Debian: apt-get install containernetworking-plugins)`,
    );
  }
  ensureShim();
  using _cleared = { [Symbol.dispose]: clear };
  await using host = await AgentHost.create('here');
  await startsBundled(host);
  const burst = build('burst', host.directory);
  await host.start();
  const plain = [await weftOf(host), await referenceOf(host)] as const;
  const contenders = ports ? await withPorts(plain, host.directory) : plain;
  const perSide = warmUps + sequentialRounds + concurrentRounds * atOnce;
  say(`making ${perSide * contenders.length} namespaces …`);
  makeNamespaces(contenders.flatMap(({ name }) => Array.from({ length: perSide }, (_, at) => `${name}-${at}`)));
  const measured = new Map(contenders.map((side) => [side.name, emptyMeasured()]));
  let next = 0;
  const rounds = (count: number, size: number, into: (one: Measured) => Samples | undefined): void => {
    for (let round = 0; round < count; round++) {
      const order = round % 2 === 0 ? contenders : contenders.toReversed();
      for (const verb of ['ADD', 'DEL'] as const) {
        for (const side of order) {
          const one = measured.get(side.name) ?? emptyMeasured();
          const tookMs = run(burst, side, verb, next, size);
          into(one)?.[verb].push(tookMs / size);
          const goneMs = verb === 'DEL' ? waitUntilGone(side) : 0;
          if (verb === 'DEL' && size > 1) one.goneMs.push(tookMs + goneMs);
        }
      }
      next += size;
    }
  };
  say(`warming up, then ${sequentialRounds} rounds one at a time …`);
  rounds(warmUps, 1, () => undefined);
  rounds(sequentialRounds, 1, (one) => one.sequential);
  say(`${concurrentRounds} rounds of ${atOnce} at once …`);
  rounds(concurrentRounds, atOnce, (one) => one.concurrent);
  return figuresOf(measured.get('weft') ?? emptyMeasured(), measured.get('reference') ?? emptyMeasured());
}

/** What both sides leave in the bench's own namespaces, so that the next bench finds none of it. */
function clear(): void {
  for (const link of ['eth0', 'weft0', 'ref0']) spawnSync('ip', ['link', 'delete', link]);
  spawnSync('ip', ['-all', 'netns', 'delete']);
  spawnSync('nft', ['flush', 'ruleset']);
}

function emptyMeasured(): Measured {
  return { sequential: { ADD: [], DEL: [] }, concurrent: { ADD: [], DEL: [] }, goneMs: [] };
}

function figuresOf(weft: Measured, reference: Measured): Figures {
  const compare = (pick: (side: Measured) => readonly number[]): Record<string, number> => {
    const [weftMs, referenceMs] = [median(pick(weft)), median(pick(reference))];
    return { ratio: rounded(weftMs / referenceMs), weftMs: rounded(weftMs), referenceMs: rounded(referenceMs) };
  };
  return {
    add: {
      sequential: compare((side) => side.sequential.ADD),
      concurrent16: compare((side) => side.concurrent.ADD),
    },
    del: {
      sequential: compare((side) => side.sequential.DEL),
      concurrent16: {
        ...compare((side) => side.concurrent.DEL),
        weftLinksGoneMs: rounded(median(weft.goneMs)),
        referenceLinksGoneMs: rounded(median(reference.goneMs)),
      },
    },
  };
}

async function weftOf(host: AgentHost): Promise<Contender> {
  const confPath = join(host.directory, 'weft.conf');
  await writeFile(confPath, JSON.stringify({ cniVersion: '1.0.0', name: 'weft', type: 'weft' }));
  const env = { CNI_PATH: '/opt/cni/bin', WEFT_SOCKET: host.socketPath, WEFT_SPOOL_DIR: host.spoolDir };
  return { name: 'weft', program: shimPath, confPath, env, ownsLink: (ifname) => ifname.startsWith('weftp') };
}

/** Without ipMasq, which would cost the reference several iptables calls more. */
async function referenceOf(host: AgentHost): Promise<Contender> {
  const confPath = join(host.directory, 'reference.conf');
  const dataDir = join(host.directory, 'host-local');
  await mkdir(dataDir);
  const ranges = [[{ subnet: '10.200.0.0/16' }]];
  const ipam = { type: 'host-local', dataDir, ranges, routes: [{ dst: '0.0.0.0/0' }] };
  const bridge = { type: 'bridge', bridge: 'ref0', isGateway: true, ipMasq: false, ipam };
  await writeFile(confPath, JSON.stringify({ cniVersion: '1.0.0', name: 'reference', ...bridge }));
  return {
    name: 'reference',
    program: join(referenceDirectory, 'bridge'),
    confPath,
    env: { CNI_PATH: referenceDirectory },
    ownsLink: (ifname) => ifname.startsWith('veth'),
  };
}

/** Each through the same small program that chains plugins: Weft's list has one, the reference's two. */
async function withPorts(plain: readonly [Contender, Contender], directory: string): Promise<[Contender, Contender]> {
  const program = build('chain', directory);
  const cache = join(directory, 'results');
  await mkdir(cache);
  const portMappings = ['tcp', 'udp'].map((protocol) => ({ hostPort: '@PORT@', containerPort: 80, protocol }));
  const runtimeConfig = { portMappings };
  const chained = async (side: Contender): Promise<Contender> => {
    const conf = JSON.parse(await readFile(side.confPath, 'utf8')) as object;
    const plugins: (readonly [string, object])[] =
      side.name === 'weft'
        ? [[side.program, { ...conf, runtimeConfig }]]
        : [
            [side.program, conf],
            [
              join(referenceDirectory, 'portmap'),
              { cniVersion: '1.0.0', name: 'reference', snat: true, runtimeConfig },
            ],
          ];
    const lines = plugins.map(([path, json]) => `${path}\t${JSON.stringify(json)}\n`.replaceAll('"@PORT@"', '@PORT@'));
    const confPath = `${side.confPath}.list`;
    await writeFile(confPath, lines.join(''));
    return { ...side, program, confPath, env: { ...side.env, CHAIN_CACHE: cache } };
  };
  return [await chained(plain[0]), await chained(plain[1])];
}

/** Milliseconds from before the first process until the last has ended. Throws when a call fails. */
function run(burst: string, side: Contender, verb: string, first: number, count: number): number {
  const env = { PATH: process.env['PATH'] ?? '', CNI_COMMAND: verb, CNI_IFNAME: 'eth0', ...side.env };
  const args = [side.program, side.confPath, side.name, String(first), String(count)];
  const result = spawnSync(burst, args, { env, encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`${verb} by ${side.name}: ${result.stderr}`);
  const { wallNs, failed } = JSON.parse(result.stdout) as { wallNs: number; failed: number };
  if (failed > 0) throw new Error(`${failed} of ${count} ${verb} by ${side.name} failed:\n${result.stderr}`);
  return wallNs / 1e6;
}

/** Milliseconds until the kernel shows no pod link of this side any more. */
function waitUntilGone(side: Contender): number {
  const beganMs = performance.now();
  while (readdirSync('/sys/class/net').some((ifname) => side.ownsLink(ifname))) {
    if (performance.now() - beganMs > 10_000)
      throw new Error(`links of ${side.name} are still there 10 s after their DEL`);
    Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2);
  }
  return performance.now() - beganMs;
}

function makeNamespaces(names: readonly string[]): void {
  const input = names.map((name) => `netns add ${name}\n`).join('');
  const result = spawnSync('ip', ['-batch', '-'], { input, encoding: 'utf8' });
  if (result.status !== 0) throw new Error(`cannot make namespaces: ${result.stderr}`);
}

function build(name: 'burst' | 'chain', directory: string): string {
  const output = join(directory, name);
  const source = fileURLToPath(new URL(`${name}.c`, import.meta.url));
  const result = spawnSync(process.env['CC'] ?? 'cc', ['-O2', '-Wall', '-Wextra', '-Werror', source, '-o', output], {
    encoding: 'utf8',
  });
  if (result.status !== 0) throw new Error(`cannot build ${name}.c: ${result.stderr || String(result.error)}`);
  return output;
}
