// `npm run bench`: every bench but `profile`, or those named by `--only NAME[,NAME…]`, in namespaces of its own. A table for people; with `--json`
// one JSON document on stdout, everything else on stderr.

import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

import { benchAdd, benchPorts } from '#test/bench/add.ts';
import { benchAgent } from '#test/bench/agent.ts';
import { benchDatapath } from '#test/bench/datapath.ts';
import type { Bench, Figures } from '#test/bench/figures.ts';
import { tableOf } from '#test/bench/figures.ts';
import { benchIpam } from '#test/bench/ipam.ts';
import { benchPeers } from '#test/bench/peers.ts';
import { benchProfile } from '#test/bench/profile.ts';

/** A bench's figures go into the document under the names that it gives them. */
const benches: Readonly<Record<string, Bench>> = {
  add: benchAdd,
  ports: benchPorts,
  ipam: benchIpam,
  peers: benchPeers,
  datapath: benchDatapath,
  profile: benchProfile,
  agent: benchAgent,
};

/** Runs only by its name: perf is not everywhere. */
const named: readonly string[] = ['profile'];

const insideMark = 'BENCH_INSIDE';

interface Options {
  readonly names: readonly string[];
  readonly json: boolean;
}

function parseArguments(argv: readonly string[]): Options {
  let names = Object.keys(benches).filter((name) => !named.includes(name));
  let json = false;
  for (let at = 0; at < argv.length; at++) {
    const argument = argv[at] ?? '';
    if (argument === '--json') json = true;
    else if (argument === '--only') names = (argv[++at] ?? '').split(',');
    else usage(`unknown argument "${argument}"`);
  }
  const unknown = names.find((name) => !Object.hasOwn(benches, name));
  if (unknown !== undefined) usage(`there is no bench "${unknown}"`);
  return { names, json };
}

function usage(problem: string): never {
  console.error(`weft: ${problem}. Usage: npm run bench -- [--only ${Object.keys(benches).join(',')}] [--json]`);
  process.exit(2);
}

/** Runs this program again inside new mount, network and pid namespaces, so that nothing of it is left however it ends. */
async function runInside(argv: readonly string[]): Promise<number> {
  const setup =
    'mount -t proc proc /proc && mount -t sysfs sysfs /sys && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && exec "$@"';
  const unshare = ['--mount', '--net', '--pid', '--fork', '--kill-child', '--propagation', 'private'];
  const program = [process.execPath, fileURLToPath(import.meta.url), ...argv];
  const child = spawn('unshare', [...unshare, 'sh', '-c', setup, 'sh', ...program], {
    stdio: 'inherit',
    env: { ...process.env, [insideMark]: '1' },
  });
  return await new Promise((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (code) => resolve(code ?? 1));
  });
}

async function measure({ names, json }: Options): Promise<void> {
  const figures: Record<string, Figures> = {};
  for (const name of names) {
    Object.assign(figures, await benches[name]?.((line) => console.error(`${name}: ${line}`)));
  }
  console.log(json ? JSON.stringify(figures, null, 2) : tableOf(figures));
}

const argv = process.argv.slice(2);
const options = parseArguments(argv);
if (process.env[insideMark] === undefined) process.exitCode = await runInside(argv);
else await measure(options);
