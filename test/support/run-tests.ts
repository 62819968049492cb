// `npm test`: the unit and simulation projects as they are, the netns project inside its own mount, network and pid namespaces
// so that even SIGKILL leaks nothing; it mostly waits for the kernel, so its files run in two such sandboxes at once.
// `--only unit,sim,netns` picks; other arguments go to vitest. Ends with `N passed, N failed`.
// The project `runtimes` needs Go and container runtimes and is not part of it: `npm run test:runtimes`.
import { spawn } from 'node:child_process';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

interface Counts {
  passed: number;
  failed: number;
}

const usualProjects = ['unit', 'sim', 'netns'] as const;
/** `runtimes` needs Go and container runtimes; `npm run test:runtimes` asks for it. */
const allProjects = [...usualProjects, 'runtimes'] as const;
type Project = (typeof allProjects)[number];

function parseArguments(argv: readonly string[]): { projects: readonly Project[]; rest: readonly string[] } {
  const at = argv.indexOf('--only');
  if (at === -1) return { projects: usualProjects, rest: argv };
  const names = (argv[at + 1] ?? '').split(',');
  const unknown = names.filter((name) => !allProjects.some((project) => project === name));
  if (unknown.length > 0) {
    console.error(`weft: --only knows ${allProjects.join(', ')}; not "${unknown.join(', ')}"`);
    process.exit(2);
  }
  return {
    projects: allProjects.filter((project) => names.includes(project)),
    rest: [...argv.slice(0, at), ...argv.slice(at + 2)],
  };
}

/** `lab`: where a lab of this sandbox keeps its state. `output`: a file for what it prints, shown once it has ended. */
interface Sandbox {
  readonly lab: string;
  readonly output?: string;
}

async function runVitest(projects: readonly Project[], rest: readonly string[], sandbox?: Sandbox): Promise<Counts> {
  const directory = await mkdtemp(join(tmpdir(), 'weft-test-'));
  const report = join(directory, 'report.json');
  const vitest = [
    'vitest',
    'run',
    '--config',
    'test/vitest.config.ts',
    '--reporter=default',
    '--reporter=json',
    `--outputFile.json=${report}`,
    ...projects.flatMap((project) => ['--project', project]),
    ...rest,
  ];
  const unshare = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child', '--propagation', 'private'];
  // Fresh /proc for the new pid namespace, fresh /run/netns so that names of the machine are not seen, lo up.
  const setup =
    'mount -t proc proc /proc && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link set lo up && exec "$@"';
  const command = sandbox === undefined ? vitest : [...unshare, 'sh', '-c', setup, 'sh', ...vitest];
  await using output = sandbox?.output === undefined ? undefined : await open(sandbox.output, 'w');
  const child = spawn(command[0] ?? '', command.slice(1), {
    stdio: ['inherit', output?.fd ?? 'inherit', output?.fd ?? 'inherit'],
    env: { ...process.env, ...(sandbox === undefined ? {} : { LAB_OF_WEFT_DIR: sandbox.lab }) },
  });
  const code = await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve(status ?? 1));
  });
  const counts = await readCounts(report, code);
  await rm(directory, { recursive: true, force: true });
  return counts;
}

/** A run that ends badly with no failed test to show (a crash, an unhandled error, no test found) counts as one failure. */
async function readCounts(report: string, code: number): Promise<Counts> {
  try {
    const json: unknown = JSON.parse(await readFile(report, 'utf8'));
    const { numPassedTests: passed, numFailedTests: failed } = json as {
      numPassedTests: number;
      numFailedTests: number;
    };
    return { passed, failed: failed === 0 && code !== 0 ? 1 : failed };
  } catch {
    return { passed: 0, failed: 1 };
  }
}

const usualLab = '/run/weft-lab';

/** Both halves of the netns project at once; the second half's output comes when both have ended. */
async function runNetns(rest: readonly string[]): Promise<Counts> {
  if (rest.length > 0) return await runVitest(['netns'], rest, { lab: usualLab });
  const directory = await mkdtemp(join(tmpdir(), 'weft-test-'));
  const output = join(directory, 'second.txt');
  const halves = await Promise.all([
    runVitest(['netns'], ['--shard=1/2'], { lab: usualLab }),
    runVitest(['netns'], ['--shard=2/2'], { lab: '/run/weft-lab-2', output }),
  ]);
  process.stdout.write(await readFile(output));
  await rm(directory, { recursive: true, force: true });
  return sum(halves);
}

function sum(counts: readonly Counts[]): Counts {
  const total: Counts = { passed: 0, failed: 0 };
  for (const { passed, failed } of counts) {
    total.passed += passed;
    total.failed += failed;
  }
  return total;
}

const { projects, rest } = parseArguments(process.argv.slice(2));
const pure = projects.filter((project) => project !== 'netns' && project !== 'runtimes');
const total = sum([
  ...(pure.length > 0 ? [await runVitest(pure, rest)] : []),
  ...(projects.includes('netns') ? [await runNetns(rest)] : []),
  ...(projects.includes('runtimes') ? [await runVitest(['runtimes'], rest, { lab: usualLab })] : []),
]);
console.log(`${total.passed} passed, ${total.failed} failed`);
process.exit(total.failed === 0 && total.passed > 0 ? 0 : 1);
