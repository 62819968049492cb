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
  const inside = manner.lab === undefined ? vitest : inSandbox(vitest);
  const code = await runCommand(manner.nice ? ['nice', '-n', '19', ...inside] : inside, manner, printed);
  if (manner.quiet) process.stdout.write(await readFile(printed));
  const reports = await readReports(report, code, rest);
  await rm(directory, { recursive: true, force: true });
  return reports;
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
