// `npm test`: the unit and simulation projects, then the netns project. Each netns file runs inside its own mount, network and pid
// namespaces, so that even SIGKILL leaks nothing, and several run at once because they mostly wait for the kernel.
// A file that fails is run once more, alone: one that then passes is named as flaky, the others are shown again at the end.
// `--only unit,sim,netns` picks; other arguments go to vitest. Ends with `N passed, N failed`.
// The project `runtimes` needs Go and container runtimes and is not part of it: `npm run test:runtimes`.
import { globSync } from 'node:fs';
import { availableParallelism } from 'node:os';

import { addUp, type FileReport, runVitest, type Sandbox } from './vitest-run.ts';

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

const usualLab: Sandbox = { lab: '/run/weft-lab' };

/** Every netns file in a sandbox of its own, one more at once than there are cores; what a file prints comes when it has ended. */
async function runNetns(rest: readonly string[]): Promise<readonly FileReport[]> {
  if (rest.length > 0) return await runVitest(['netns'], rest, usualLab);
  const files = globSync('test/netns/**/*.test.ts').sort(longestFirst);
  const reports: FileReport[] = [];
  const lane = async (number: number): Promise<void> => {
    for (let file = files.shift(); file !== undefined; file = files.shift())
      reports.push(...(await runVitest(['netns'], [file], { lab: `/run/weft-lab-${number}`, quiet: true })));
  };
  await Promise.all(Array.from({ length: availableParallelism() + 1 }, (_, index) => lane(index + 1)));
  return reports;
}

/** The chaos run takes a minute and must not begin last; the order of the others hardly matters. */
function longestFirst(a: string, b: string): number {
  const isLong = (file: string): number => Number(file.includes('/chaos.'));
  return isLong(b) - isLong(a) || a.localeCompare(b);
}

function runOf(project: Project, rest: readonly string[], alone: boolean): Promise<readonly FileReport[]> {
  if (project === 'unit' || project === 'sim') return runVitest([project], rest);
  if (project === 'runtimes' || alone) return runVitest([project], rest, usualLab);
  return runNetns(rest);
}

/** Runs each failed file once more with nothing beside it. Of a flaky one the second report counts, and the first is named. */
async function runAgain(project: Project, reports: readonly FileReport[]): Promise<readonly FileReport[]> {
  const last: FileReport[] = [];
  for (const report of reports) {
    if (report.failures.length === 0 || report.file === '') {
      last.push(report);
      continue;
    }
    console.log(`weft: ${report.file} failed; once more, alone:`);
    const [again] = await runOf(project, [report.file], true);
    last.push(again ?? report);
    if (again?.failures.length === 0) flaky.push(...report.failures);
  }
  return last;
}

const flaky: string[] = [];
const { projects, rest } = parseArguments(process.argv.slice(2));
const reports: FileReport[] = [];
for (const project of projects) reports.push(...(await runAgain(project, await runOf(project, rest, false))));
for (const failure of flaky) console.log(`flaky: passed only when run again, alone: ${failure}`);
for (const { failures } of reports) for (const failure of failures) console.log(`failed: ${failure}`);
const { passed, failed } = addUp(reports);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
