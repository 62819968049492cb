// What is generated under deploy/ is what its sources say, and names nothing of another release, nor a metric that is not there.
import { readFile } from 'node:fs/promises';

import { loadAllYaml } from '@kubernetes/client-node';
import { describe, expect, test } from 'vitest';

import { dashboardQueries } from '../../../deploy/dashboard.ts';
import { defaultImage, generatedFiles, renderManifest } from '../../../deploy/generate.ts';

const deploy = new URL('../../../deploy/', import.meta.url);
const read = (path: string): Promise<string> => readFile(new URL(path, deploy), 'utf8');

test.for(Object.entries(await generatedFiles()))(
  'deploy/%s is up to date (node deploy/generate.ts writes it)',
  async ([path, text]) => {
    expect(await read(path)).toBe(text);
  },
);

describe('deploy/weft.yaml', () => {
  test('names one image, the one asked for', async () => {
    const images = (text: string): readonly string[] =>
      [...text.matchAll(/^\s+image: (\S+)$/gm)].map((match) => match[1] ?? '');
    expect(new Set(images(await renderManifest()))).toEqual(new Set([defaultImage]));
    expect(new Set(images(await renderManifest('example.test/weft:9.9.9')))).toEqual(
      new Set(['example.test/weft:9.9.9']),
    );
  });

  test('comes in the order in which objects must exist, and uses no kind that it defines itself', async () => {
    const kinds = [...(await renderManifest()).matchAll(/^kind: (\S+)$/gm)].map((match) => match[1]);
    expect(kinds[0]).toBe('Namespace');
    // `kubectl apply` looks up every kind of the file before it creates the first object.
    expect(kinds).toContain('CustomResourceDefinition');
    expect(kinds).not.toContain('Universe');
    expect(kinds.indexOf('ServiceAccount')).toBeLessThan(kinds.indexOf('DaemonSet'));
    expect(kinds.indexOf('ValidatingAdmissionPolicyBinding')).toBeLessThan(kinds.indexOf('DaemonSet'));
    expect(kinds.indexOf('ConfigMap')).toBeLessThan(kinds.indexOf('DaemonSet'));
  });

  test('has a binding that denies for each admission policy', async () => {
    const objects = loadAllYaml(await renderManifest()) as readonly {
      readonly kind: string;
      readonly metadata: { readonly name: string };
      readonly spec: { readonly policyName?: string; readonly validationActions?: readonly string[] };
    }[];
    const policies = objects.filter(({ kind }) => kind === 'ValidatingAdmissionPolicy');
    const bindings = objects.filter(({ kind }) => kind === 'ValidatingAdmissionPolicyBinding');
    expect(policies.length).toBeGreaterThan(5);
    expect(new Set(bindings.map(({ spec }) => spec.policyName))).toEqual(
      new Set(policies.map(({ metadata }) => metadata.name)),
    );
    expect(bindings.filter(({ spec }) => spec.validationActions?.join() !== 'Deny')).toEqual([]);
  });

  test('compares blocks within each of the sixteen parts, and wide ones with all', async () => {
    const text = await read('base/admission-blocks.yaml');
    const pairs = (loadAllYaml(text) as readonly { readonly spec: { readonly [field: string]: unknown } }[])
      .filter(({ spec }) => spec['policyName'] === 'weft-blocks')
      .map(({ spec }) => {
        const key = (selector: unknown): string =>
          /"key":"weft.network\/space-(\w+)","operator":"Exists"/.exec(JSON.stringify(selector ?? {}))?.[1] ?? 'any';
        return `${key(spec['matchResources'])} with ${key(spec['paramRef'])}`;
      });
    const parts = Array.from({ length: 16 }, (_, part) => `${part} with ${part}`);
    expect(pairs).toEqual(['wide with any', 'any with wide', ...parts]);
  });

  test('compares a takeover with the Nodes of each of the sixteen parts, and Nodes without one with all', async () => {
    const text = await read('base/admission-takeover.yaml');
    const digits = '0123456789abcdef'.split('');
    const [nodes, sessions, ...parts] = (
      loadAllYaml(text) as readonly { readonly kind: string; readonly spec: { readonly [field: string]: unknown } }[]
    ).flatMap(({ kind, spec }) => (kind === 'ValidatingAdmissionPolicyBinding' ? [spec] : []));
    const label = 'weft.network/part';
    const unlabelled = { matchExpressions: [{ key: label, operator: 'NotIn', values: digits }] };
    expect(nodes).toMatchObject({ paramRef: { selector: unlabelled } });
    expect(sessions).toMatchObject({ matchResources: { objectSelector: unlabelled }, paramRef: { selector: {} } });
    expect(parts).toMatchObject(
      digits.map((digit) => ({
        matchResources: { objectSelector: { matchLabels: { [label]: digit } } },
        paramRef: { selector: { matchLabels: { [label]: digit } } },
      })),
    );
  });
});

test('kustomize, the chart and the static file name the same image', async () => {
  const [newName = '', newTag = ''] = defaultImage.split(':');
  const kustomization = await read('base/kustomization.yaml');
  expect(kustomization).toContain(`newName: ${newName}\n    newTag: ${newTag}\n`);
  expect(await read('helm/Chart.yaml')).toContain(`appVersion: ${newTag}\n`);
});

test('the dashboard and the alerts ask only for metrics that there are', async () => {
  const rules = await read('monitoring/prometheusrule.yaml');
  const queries = [...dashboardQueries, ...[...rules.matchAll(/^ +expr: (.+)$/gm)].map((match) => match[1] ?? '')];
  expect(queries.length).toBeGreaterThan(15);
  const known = await readFile(new URL('../docs/metrics.md', deploy), 'utf8');
  const asked = queries.flatMap((query) => query.match(/\b(?:weft|process)_[a-z_]+/g) ?? []);
  const missing = asked.filter((name) => !known.includes(`\`${name.replace(/_bucket$/, '')}\``));
  expect(missing).toEqual([]);
});
