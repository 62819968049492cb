// One run of vitest, in a sandbox of namespaces where asked, and what came of each of its files.
import { spawn } from 'node:child_process';
import { mkdtemp, open, readFile, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';

export interface Manner {
  /** In a sandbox of namespaces, where a lab keeps its state here. */
  readonly lab?: string;
  /** What the run prints is shown in one piece once it has ended. */
  readonly quiet: boolean;
  /** Only with processor time that nobody else wants. */
  readonly nice: boolean;
}

/** What each piece took of the processors, itself and all that it started, in seconds. Only with TEST_CPU=1, which shows it. */
const processorSeconds = new Map<string, number>();
const isMeasured = process.env['TEST_CPU'] === '1';

/** One line a piece, those that took most first, and their sum. */
export function describeProcessorSeconds(): readonly string[] {
  const lines = [...processorSeconds].toSorted((a, b) => b[1] - a[1]);
  const sum = lines.reduce((all, [, seconds]) => all + seconds, 0);
  return isMeasured
    ? [...lines, ['all', sum] as const].map(([name, s]) => `cpu ${s.toFixed(1).padStart(6)} s ${name}`)
    : [];
}

/** `file`: from the repository's root; empty for a run that ended badly with no test to blame (a crash, an unhandled error). */
export interface FileReport {
  readonly file: string;
  readonly passed: number;
  /** One text for each failed test: file, name and the first lines of the error. */
  readonly failures: readonly string[];
}

export function addUp(reports: readonly FileReport[]): { passed: number; failed: number } {
  let [passed, failed] = [0, 0];
  for (const report of reports) {
    passed += report.passed;
    failed += report.failures.length;
  }
  return { passed, failed };
}

export async function runVitest(
  project: string,
  rest: readonly string[],
  manner: Manner,
): Promise<readonly FileReport[]> {
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
    '--project',
    project,
    ...rest,
  ];
  const printed = join(directory, 'output');
  const times = join(directory, 'times');
  const inside = manner.lab === undefined ? vitest : inSandbox(vitest);
  const command = isMeasured ? ['sh', '-c', `"$@"; code=$?; times >${times}; exit $code`, 'sh', ...inside] : inside;
  const code = await runCommand(manner.nice ? ['nice', '-n', '19', ...command] : command, manner, printed);
  if (isMeasured) processorSeconds.set(`${project} ${rest.join(' ')}`, secondsIn(await readFile(times, 'utf8')));
  if (manner.quiet) process.stdout.write(await readFile(printed));
  const reports = await readReports(report, code, rest);
  await rm(directory, { recursive: true, force: true });
  return reports;
}

/** The second line that the shell's `times` writes, of its children: `1m2.345s 0m6.789s`, user and system. */
function secondsIn(times: string): number {
  const parts = (times.split('\n')[1] ?? '').split(/[ ms]+/).map(Number);
  return (parts[0] ?? 0) * 60 + (parts[1] ?? 0) + (parts[2] ?? 0) * 60 + (parts[3] ?? 0);
}

/** Fresh /proc for the new pid namespace, fresh /run/netns so that names of the machine are not seen, lo up. */
function inSandbox(command: readonly string[]): readonly string[] {
  const unshare = ['unshare', '--mount', '--net', '--pid', '--fork', '--kill-child', '--propagation', 'private'];
  const setup =
    'mount -t proc proc /proc && mkdir -p /run/netns && mount -t tmpfs tmpfs /run/netns && ip link set lo up && exec "$@"';
  return [...unshare, 'sh', '-c', setup, 'sh', ...command];
}

async function runCommand(command: readonly string[], { lab, quiet }: Manner, printed: string): Promise<number> {
  await using output = quiet ? await open(printed, 'w') : undefined;
  const child = spawn(command[0] ?? '', command.slice(1), {
    stdio: ['inherit', output?.fd ?? 'inherit', output?.fd ?? 'inherit'],
    env: { ...process.env, ...(lab === undefined ? {} : { LAB_OF_WEFT_DIR: lab }) },
  });
  return await new Promise<number>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', (status) => resolve(status ?? 1));
  });
}

/** What vitest's reporter `json` writes, as far as it is read here. */
interface JsonReport {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly fullName: string;
      readonly status: string;
      readonly failureMessages: readonly string[];
    }[];
  }[];
}

/** A run that ends badly with no failed test to show counts as one failure. */
async function readReports(path: string, code: number, rest: readonly string[]): Promise<readonly FileReport[]> {
  const text = await readFile(path, 'utf8').catch(() => undefined);
  const lost = { file: '', passed: 0, failures: [`vitest ${rest.join(' ')}: ended with status ${code}`] };
  if (text === undefined) return [lost];
  const reports = (JSON.parse(text) as JsonReport).testResults.map((result): FileReport => {
    const file = relative(process.cwd(), result.name);
    const failures = result.assertionResults
      .filter(({ status }) => status === 'failed')
      .map(({ fullName, failureMessages }) => `${file} > ${fullName}: ${firstLines(failureMessages.join('\n'))}`);
    if (failures.length === 0 && result.status === 'failed') failures.push(`${file}: ${firstLines(result.message)}`);
    const passed = result.assertionResults.filter(({ status }) => status === 'passed').length;
    return { file, passed, failures };
  });
  return code !== 0 && addUp(reports).failed === 0 ? [...reports, lost] : reports;
}

function firstLines(text: string): string {
  return text.split('\n').slice(0, 4).join('\n  ');
}
