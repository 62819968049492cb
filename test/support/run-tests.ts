// `npm test`: the projects unit, sim and netns, all at once, since what one waits for another can use. Each netns file runs inside its
// own mount, network and pid namespaces, so that even SIGKILL leaks nothing; two for each core and one, because they mostly wait for the
// kernel's timers. The simulations only compute: they take what the others leave.
// A file that fails is run once more, alone: one that then passes is named as flaky, the others are shown again at the end.
// `--only unit,sim,netns` picks; other arguments go to vitest. Ends with `N passed, N failed`.
// The projects `runtimes` and `vm` need more than a bare machine has and are not part of it: `npm run test:runtimes`, `test:vm`.
import { spawnSync } from 'node:child_process';
import { globSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';

import { ensureForAll } from '#test/runtimes/programs.ts';

import { bundlePrograms } from './programs.ts';
import { addUp, describeProcessorSeconds, type FileReport, runVitest } from './vitest-run.ts';

const usualProjects = ['unit', 'sim', 'netns'] as const;
const allProjects = [...usualProjects, 'runtimes', 'vm'] as const;
type Project = (typeof allProjects)[number];

/** Files that take longest, by what their paths contain: they begin first. In the order of the seconds that they took. */
const longest = [
  '/owed.',
  '/chaos.',
  '/heal.',
  '/every-step.',
  '/lab.',
  '/dhcp.',
  '/families.',
  '/ports.',
  '/footprint.',
  '/probe.',
  '/matrix.',
  '/adopt.',
  '/idle.',
  '/agent.',
  '/churn.',
  '/direct-changes.',
  '/foreign-firewall.',
  '/firewall.',
];

/** What one vitest runs. `beside`: others run at the same time, so what it prints is kept until its end. */
interface Piece {
  readonly project: Project;
  readonly rest: readonly string[];
  readonly beside?: boolean;
}

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

/** All netns files, longest first. */
function netnsPieces(): readonly Piece[] {
  const rank = (file: string): number => {
    const at = longest.findIndex((part) => file.includes(part));
    return at === -1 ? longest.length : at;
  };
  const files = globSync('test/netns/**/*.test.ts').toSorted((a, b) => rank(a) - rank(b) || a.localeCompare(b));
  return files.map((file) => ({ project: 'netns', rest: [file], beside: true }));
}

async function runPiece({ project, rest, beside = false }: Piece, lab: string): Promise<readonly FileReport[]> {
  const hasNetns = project === 'netns' || project === 'runtimes';
  return await runVitest(project, rest, {
    ...(hasNetns ? { lab } : {}),
    quiet: beside,
    nice: beside && project === 'sim',
  });
}

/** Pieces one after another in each of some lanes, in their order; labs of a lane have a place of their own. */
async function runInLanes(pieces: readonly Piece[], lanes: number): Promise<readonly FileReport[]> {
  const left = [...pieces];
  const reports: FileReport[] = [];
  const lane = async (number: number): Promise<void> => {
    for (let piece = left.shift(); piece !== undefined; piece = left.shift())
      reports.push(...(await runPiece(piece, `/run/weft-lab-${number}`)));
  };
  await Promise.all(Array.from({ length: lanes }, (_, index) => lane(index + 1)));
  return reports;
}

async function runAll(projects: readonly Project[], rest: readonly string[]): Promise<readonly FileReport[]> {
  const isOne = projects.length === 1 && projects[0] !== 'netns';
  // Whoever names files wants to see them run.
  if (isOne || rest.length > 0)
    return await runInLanes(
      projects.map((project) => ({ project, rest })),
      1,
    );
  const has = (project: Project): boolean => projects.includes(project);
  const inTurn: Piece[] = has('unit') ? [{ project: 'unit', rest: [], beside: true }] : [];
  if (has('netns')) inTurn.push(...netnsPieces());
  const [reports, ofSim] = await Promise.all([
    runInLanes(inTurn, 2 * availableParallelism() + 1),
    has('sim') ? runPiece({ project: 'sim', rest: [], beside: true }, '') : [],
  ]);
  return [...reports, ...ofSim];
}

const projectOf = (file: string): Project => allProjects.find((name) => file.startsWith(`test/${name}/`)) ?? 'unit';

/** Runs each failed file once more with nothing beside it. Of a flaky one the second report counts, and the first is named. */
async function runAgain(reports: readonly FileReport[]): Promise<readonly FileReport[]> {
  const last: FileReport[] = [];
  for (const report of reports) {
    if (report.failures.length === 0 || report.file === '') {
      last.push(report);
      continue;
    }
    console.log(`weft: ${report.file} failed; once more, alone:`);
    const [again] = await runInLanes([{ project: projectOf(report.file), rest: [report.file] }], 1);
    last.push(again ?? report);
    if (again?.failures.length === 0) flaky.push(...report.failures);
  }
  return last;
}

const flaky: string[] = [];
const { projects, rest } = parseArguments(process.argv.slice(2));
process.env['NODE_COMPILE_CACHE'] = join(process.cwd(), '.cache/compile');
if (projects.includes('netns') || projects.includes('runtimes')) {
  const imports = await bundlePrograms();
  // A third of what starting an agent costs is compiling it. Once for all: those that are killed put nothing into the cache.
  spawnSync(process.execPath, ['--input-type=module', '-e', imports]);
}
if (projects.includes('runtimes')) await ensureForAll((line) => console.log(`weft: ${line}`));
const reports = await runAgain(await runAll(projects, rest));
for (const failure of flaky) console.log(`flaky: passed only when run again, alone: ${failure}`);
for (const { failures } of reports) for (const failure of failures) console.log(`failed: ${failure}`);
for (const line of describeProcessorSeconds()) console.log(line);
const { passed, failed } = addUp(reports);
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 && passed > 0 ? 0 : 1);
