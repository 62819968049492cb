// Kubernetes' own e2e suite against the cluster: ginkgo runs the specs that a pattern names, in several processes; what it
// reports comes back as one result for each spec.
import { mkdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';

import { attempt } from '../cluster/host.ts';

export interface SpecResult {
  readonly name: string;
  readonly seconds: number;
  /** undefined: passed. */
  readonly failure?: string;
}

export interface UpstreamRun {
  /** Holds e2e.test and ginkgo. */
  readonly bin: string;
  readonly kubeconfig: string;
  /** Regular expression over the specs' names. */
  readonly focus: string;
  /** For ginkgo's own report and log. */
  readonly report: string;
  readonly timeoutMs: number;
}

const processes = 4;

interface GinkgoReport {
  readonly LeafNodeType: string;
  readonly ContainerHierarchyTexts: readonly string[] | null;
  readonly LeafNodeText: string;
  readonly State: string;
  /** Nanoseconds. */
  readonly RunTime: number;
  readonly Failure?: {
    readonly Message: string;
    readonly Location?: { readonly FileName: string; readonly LineNumber: number };
  };
}

/** Every spec that was run. Throws with the end of ginkgo's output when it reported none. */
export async function runUpstream(run: UpstreamRun): Promise<readonly SpecResult[]> {
  await mkdir(run.report, { recursive: true });
  const ginkgo = [
    join(run.bin, 'ginkgo'),
    `-procs=${processes}`,
    `-focus=${run.focus}`,
    '--no-color',
    '--json-report=report.json',
    `--output-dir=${run.report}`,
    join(run.bin, 'e2e.test'),
    '--',
    '--provider=skeleton',
    `--kubeconfig=${run.kubeconfig}`,
    '--allowed-not-ready-nodes=0',
  ];
  const { stdout, stderr } = await attempt(ginkgo, { timeoutMs: run.timeoutMs });
  const text = await readFile(join(run.report, 'report.json'), 'utf8').catch(() => '[]');
  const suites = JSON.parse(text) as readonly { readonly SpecReports: readonly GinkgoReport[] | null }[];
  const results = suites.flatMap(({ SpecReports: reports }) =>
    (reports ?? [])
      .filter((spec) => spec.LeafNodeType === 'It' && !['skipped', 'pending'].includes(spec.State))
      .map(resultOf),
  );
  if (results.length === 0) throw new Error(`ginkgo ran no spec:\n${`${stdout}${stderr}`.slice(-3000)}`);
  return results.toSorted((a, b) => a.name.localeCompare(b.name));
}

function resultOf(spec: GinkgoReport): SpecResult {
  const name = [...(spec.ContainerHierarchyTexts ?? []), spec.LeafNodeText].join(' ');
  const seconds = spec.RunTime / 1e9;
  if (spec.State === 'passed') return { name, seconds };
  const { Message: message = spec.State, Location: at } = spec.Failure ?? {};
  return { name, seconds, failure: at === undefined ? message : `${message}\n  at ${at.FileName}:${at.LineNumber}` };
}
