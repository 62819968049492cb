// How the processes of one e2e run find each other: main.ts builds, inside.ts boots the cluster in the sandbox, vitest's workers
// run the specs against it. All three share one value in the environment.
import { Cluster } from '../cluster/cluster.ts';
import type { ClusterPaths, ClusterSettings } from '../cluster/settings.ts';

export interface RunDescription {
  readonly paths: ClusterPaths;
  readonly settings: ClusterSettings;
  /** Kept after the run: daemon logs, and what is saved on failure. */
  readonly report: string;
  /** Where prometheus and promtool are. */
  readonly prometheus: string;
  /** How long the API server is away in 45-api-away at least. */
  readonly outageMinutes: number;
  /** Where e2e.test and ginkgo are, and which of its specs run. */
  readonly conformance: { readonly bin: string; readonly scope: 'services' | 'all' };
}

const variable = 'WEFT_E2E_RUN';

export function describeRun(run: RunDescription): Readonly<Record<string, string>> {
  return { [variable]: JSON.stringify(run) };
}

export function currentRun(): RunDescription {
  const text = process.env[variable];
  if (text === undefined)
    throw new Error('the e2e specs run inside `npm run test:e2e`, which boots the cluster for them');
  return JSON.parse(text) as RunDescription;
}

/** The cluster that inside.ts booted. */
export function currentCluster(): Cluster {
  const { paths, settings } = currentRun();
  return Cluster.attach(paths, settings);
}
