// Kubernetes' own conformance specs of the network, each counted as a test here: the Service specs in every run, all of
// [sig-network] with --conformance (docs/conformance.md has the summary).
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';

import { currentCluster, currentRun } from '../support/environment.ts';
import { routeControlPlane } from '../support/ring.ts';
import { runUpstream } from '../support/upstream.ts';

const cluster = currentCluster();
const { conformance, report, settings } = currentRun();
// Upstream's specs read their pods' pages through the API server.
await routeControlPlane(cluster);
const all = conformance.scope === 'all';
const results = await runUpstream({
  bin: conformance.bin,
  kubeconfig: cluster.plane.kubeconfig,
  focus: all ? String.raw`\[sig-network\].*\[Conformance\]` : String.raw`\[sig-network\] Services .*\[Conformance\]`,
  report: join(report, 'conformance'),
  timeoutMs: 1_800_000,
});
const lines = results.map(
  ({ name, seconds, failure }) => `${failure === undefined ? 'passed' : 'FAILED'} ${seconds.toFixed(0)} s  ${name}`,
);
await writeFile(join(report, `conformance-${settings.proxyMode}.txt`), `${lines.join('\n')}\n`);

describe(`upstream, kube-proxy in ${settings.proxyMode} mode`, () => {
  test.for(results.map(({ name, failure }) => [name, failure] as const))('%s', ([, failure]) => {
    expect(failure).toBeUndefined();
  });

  test('as many specs as there are', () => {
    expect(results.length).toBeGreaterThanOrEqual(all ? 47 : 10);
  });
});
