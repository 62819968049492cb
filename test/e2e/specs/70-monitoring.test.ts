// A real Prometheus scrapes the agents by the configuration that ships, and accepts the alerts that ship. Debian's Prometheus is
// built without the Kubernetes discovery, so that it reads from a file what that would have found: one target for each port of
// each pod's containers, with the labels that the shipped rules choose by.
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { killChild, run, startDaemon, until } from '../cluster/host.ts';
import { currentCluster, currentRun } from '../support/environment.ts';

const cluster = currentCluster();
const { prometheus: bin, paths } = currentRun();
const monitoring = new URL('../../../deploy/monitoring/', import.meta.url).pathname;
const server = 'http://127.0.0.1:9090';

let directory: string;
let child: Awaited<ReturnType<typeof startDaemon>> | undefined;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-prometheus-'));
  const shipped = await readFile(join(monitoring, 'prometheus.yaml'), 'utf8');
  const discovery = /^ {2}kubernetes_sd_configs:\n(?: {4}.*\n)+/m;
  expect(shipped).toMatch(discovery);
  const entry = shipped
    .replace('scrape_interval: 30s', 'scrape_interval: 1s')
    .replace(discovery, '  file_sd_configs:\n    - files: [targets.json]\n');
  await writeFile(join(directory, 'targets.json'), JSON.stringify(await targets()));
  await writeFile(join(directory, 'prometheus.yml'), `scrape_configs:\n${entry.replaceAll(/^/gm, '  ')}`);
  await run([join(bin, 'promtool'), 'check', 'config', join(directory, 'prometheus.yml')]);
  const flags = [`--config.file=${directory}/prometheus.yml`, `--storage.tsdb.path=${directory}/data`];
  child = await startDaemon(
    [join(bin, 'prometheus'), ...flags, '--web.listen-address=127.0.0.1:9090'],
    join(paths.logs, 'prometheus.log'),
  );
});

afterAll(async () => {
  if (child !== undefined) await killChild(child);
  await rm(directory, { recursive: true, force: true });
});

interface Pod {
  readonly metadata: { readonly labels?: Readonly<Record<string, string>> };
  readonly spec: {
    readonly nodeName: string;
    readonly containers: readonly {
      readonly ports?: readonly { readonly name?: string; readonly containerPort: number }[];
    }[];
  };
  readonly status: { readonly podIP?: string };
}

/** As the Kubernetes discovery of role `pod` would find them, CoreDNS' pods too. */
async function targets(): Promise<readonly unknown[]> {
  const { items } = await cluster.plane.kubectlJson<{ readonly items: readonly Pod[] }>(['get', 'pods', '-A']);
  return items.flatMap(({ metadata, spec, status }) =>
    spec.containers
      .flatMap(({ ports }) => ports ?? [])
      .map(({ name, containerPort }) => ({
        targets: [`${status.podIP}:${containerPort}`],
        labels: {
          __meta_kubernetes_pod_label_app_kubernetes_io_name: metadata.labels?.['app.kubernetes.io/name'] ?? '',
          __meta_kubernetes_pod_container_port_name: name ?? '',
          __meta_kubernetes_pod_node_name: spec.nodeName,
        },
      })),
  );
}

interface Series {
  readonly metric: Readonly<Record<string, string>>;
  readonly value: readonly [number, string];
}

async function query(expression: string): Promise<readonly Series[]> {
  const answer = await fetch(`${server}/api/v1/query?query=${encodeURIComponent(expression)}`);
  const { data } = (await answer.json()) as { readonly data: { readonly result: readonly Series[] } };
  return data.result;
}

test('every agent is found by its pod and scraped, with the name of its node', async () => {
  const wanted = cluster.nodes.map((node) => `${node.name} ${node.address}:6782 1`);
  await until('three agents are up', 60_000, async () => {
    const up = (await query('up{job="weft"}')).map(
      ({ metric, value }) => `${metric['node']} ${metric['instance']} ${value[1]}`,
    );
    if (up.toSorted().join() === wanted.join()) return true;
    throw new Error(up.join());
  });
  const ready = await query('weft_ready{job="weft"}');
  expect(ready.map(({ value }) => value[1])).toEqual(wanted.map(() => '1'));
});

test('the alerts are rules that Prometheus understands, and none of them fires', async () => {
  const manifest = await readFile(join(monitoring, 'prometheusrule.yaml'), 'utf8');
  const rules = manifest.slice(manifest.indexOf('  groups:')).replaceAll(/^ {2}/gm, '');
  await writeFile(join(directory, 'rules.yml'), rules);
  const told = await run([join(bin, 'promtool'), 'check', 'rules', join(directory, 'rules.yml')]);
  expect(told).toMatch(/SUCCESS: \d+ rules found/);
  const expressions = [...rules.matchAll(/^ +expr: (.+)$/gm)].map((match) => match[1] ?? '');
  expect(expressions.length).toBeGreaterThan(5);
  // What the specs before did to nodes may still show for a scrape or two.
  for (const expression of expressions) {
    await expect.poll(() => query(expression), { timeout: 90_000, interval: 1000, message: expression }).toEqual([]);
  }
});
