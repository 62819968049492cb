// Every way to install says the same: the static file, kustomize and Helm (the real ones) render the same objects, and a real
// API server accepts each object of each of them.
import { execFile } from 'node:child_process';
import { readdir, readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { startApiServer, type ApiServer } from '#test/support/api-server.ts';
import { ensureExtra } from './cluster/programs.ts';
import { clusterPrograms } from './registry-programs.ts';

const deploy = new URL('../../deploy/', import.meta.url).pathname;
const chart = join(deploy, 'helm');
const overlays = await readdir(join(deploy, 'overlays'));

interface Rendered {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly namespace?: string };
  readonly [field: string]: unknown;
}

let server: ApiServer;
let helm: string;

beforeAll(async () => {
  const say = (line: string): void => console.log(line);
  helm = join(await ensureExtra('helm', say), 'helm');
  server = await startApiServer(await clusterPrograms());
  const applied = await server.kubectl(['apply', '-f', join(deploy, 'weft.yaml')]);
  expect(applied, applied.output).toMatchObject({ code: 0 });
  // What the operators of Prometheus define, as far as it decides whether an object is accepted at all.
  const definitions = [
    ['podmonitors', 'PodMonitor'],
    ['prometheusrules', 'PrometheusRule'],
  ].map(([plural = '', kind = '']) => openDefinition(plural, kind));
  const list = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: definitions });
  expect(await server.kubectl(['apply', '-f', '-'], list)).toMatchObject({ code: 0 });
  const names = ['podmonitors', 'prometheusrules'].map((plural) => `crd/${plural}.monitoring.coreos.com`);
  await server.kubectl(['wait', '--for=condition=Established', '--timeout=30s', ...names]);
}, 1_200_000);

afterAll(async () => {
  await server?.[Symbol.asyncDispose]();
});

describe('the default rendering', () => {
  it('of kustomize equals the static file', async () => {
    expect(await parse(await kustomize('base'))).toEqual(await staticFile());
  });

  it('of Helm equals the static file', async () => {
    expect(await parse(await helmTemplate())).toEqual(await staticFile());
  });

  it('of Helm with values that are there and empty is the same', async () => {
    const empty = { settings: null, monitoring: null, namespace: null, maxUnavailable: null, podAnnotations: null };
    expect(await parse(await helmTemplate(empty))).toEqual(await staticFile());
  });

  it('applied again changes nothing', async () => {
    const { code, output } = await server.kubectl(['apply', '-f', join(deploy, 'weft.yaml')]);
    expect(code, output).toBe(0);
    expect(output.split('\n').filter((line) => line !== '' && !line.endsWith(' unchanged'))).toEqual([]);
  });
});

describe('server-side apply', () => {
  const apply = async (...flags: readonly string[]): Promise<readonly string[]> => {
    const { code, output } = await server.kubectl([
      'apply',
      '--server-side',
      ...flags,
      '-f',
      join(deploy, 'weft.yaml'),
    ]);
    expect(code, output).toBe(0);
    const kinds =
      'clusterroles,roles,daemonsets,configmaps,validatingadmissionpolicies,validatingadmissionpolicybindings';
    const path = '{range .items[*]}{.kind}/{.metadata.name} {.metadata.resourceVersion}{"\\n"}{end}';
    const all = await server.kubectl(['get', kinds, '-A', '-o', `jsonpath=${path}`]);
    return all.output.split('\n').filter((line) => line.includes('weft'));
  };

  it('takes over what plain apply made, and a second time changes nothing', async () => {
    // The API server fills in what the manifest leaves out of a selector, and takes that for the other manager's.
    const once = await apply('--force-conflicts');
    expect(once.length).toBeGreaterThan(40);
    expect(await apply()).toEqual(once);
  });
});

describe('the API server accepts', () => {
  it.for(overlays)('overlay %s', async (overlay) => {
    const objects = await expectAccepted(await kustomize(`overlays/${overlay}`));
    expect(objects.size).toBeGreaterThan(15);
  });

  it('the chart with every value set', async () => {
    const values = {
      image: 'registry.test/weft:1',
      imagePullPolicy: 'Always',
      imagePullSecrets: [{ name: 'pull' }],
      settings: { ranges: ['10.64.0.0/12'], statusListen: '127.0.0.1:7785', metricsListen: ':7782', logLevel: 'debug' },
      resources: { limits: { memory: '1Gi' } },
      nodeSelector: { weft: 'yes' },
      tolerations: [{ key: 'only', operator: 'Exists' }],
      maxUnavailable: 2,
      podAnnotations: { 'example.test/note': 'x' },
      monitoring: { podMonitor: true, prometheusRule: true, dashboard: true },
    };
    const objects = await expectAccepted(await helmTemplate(values));
    for (const kind of ['PodMonitor', 'PrometheusRule']) expect([...objects.keys()].join()).toContain(`${kind}/weft`);
    const rule = await readFile(join(deploy, 'monitoring/prometheusrule.yaml'), 'utf8');
    expect(objects.get('PrometheusRule/weft')).toEqual((await parse(rule)).get('PrometheusRule/weft'));
    const text = JSON.stringify(objects.get('DaemonSet/weft'));
    for (const wanted of [
      '"image":"registry.test/weft:1"',
      '"imagePullPolicy":"Always"',
      '"containerPort":7782',
      '"host":"127.0.0.1","path":"/healthz","port":7785',
      '"maxUnavailable":2',
      '"example.test/note":"x"',
      '"weft":"yes"',
      'weft.network/settings',
    ]) {
      expect(text).toContain(wanted);
    }
    expect(JSON.parse(configOf(objects))).toEqual(values.settings);
  });

  it.for<[string, string, string, number]>([
    ['127.0.0.1:7785', ':6782', '127.0.0.1', 7785],
    [':7785', ':6782', '127.0.0.1', 7785],
    ['[::1]:7785', ':6782', '::1', 7785],
    ['localhost:7785', ':6782', 'localhost', 7785],
    ['off', '[fd00::1]:7782', 'fd00::1', 7782],
  ])('the chart with the agent listening on %s and %s', async ([statusListen, metricsListen, host, port]) => {
    const objects = await parse(await helmTemplate({ settings: { statusListen, metricsListen } }));
    const text = JSON.stringify(objects.get('DaemonSet/weft'));
    for (const path of ['/healthz', '/readyz'])
      expect(text).toContain(JSON.stringify({ host, path, port }).slice(1, -1));
  });

  it('the chart in another namespace, whose service account the policies then bind', async () => {
    const objects = await expectAccepted(await helmTemplate({ namespace: 'pod-network' }), 'pod-network');
    const places = [...objects.values()].map((object) => object.metadata.namespace).filter((one) => one !== undefined);
    expect(places).toContain('pod-network');
    expect(places).not.toContain('weft');
    expect(JSON.stringify([...objects.values()])).not.toContain('serviceaccount:weft:');
  });
});

describe('the chart refuses', () => {
  it.for<[string, object]>([
    ['a setting that does not exist', { settings: { vxlanPrt: 1 } }],
    ['a setting out of range', { settings: { vxlanPort: 99_999 } }],
    ['a setting of another type', { settings: { ranges: '10.32.0.0/12' } }],
    ['a value that does not exist', { imageTag: 'x' }],
    ['a pull policy that does not exist', { imagePullPolicy: 'Sometimes' }],
    ['a range that is an address', { settings: { ranges: ['10.32.0.0'] } }],
    ['a place to listen without a port', { settings: { statusListen: '127.0.0.1' } }],
    ['an API server without https', { settings: { apiServer: '192.0.2.1:6443' } }],
    ['an upgrade that may restart no agent', { maxUnavailable: 0 }],
    ['a share that is none', { maxUnavailable: 'ten' }],
    ['a namespace that cannot be', { namespace: 'Weft_1' }],
  ])('%s', async ([, values]) => {
    await expect(helmTemplate(values)).rejects.toThrow(/values don't meet the specifications/);
  });
});

it('the chart refuses to close both places that the probes could ask', async () => {
  const settings = { statusListen: 'off', metricsListen: 'off' };
  await expect(helmTemplate({ settings })).rejects.toThrow(/both off: the kubelet's probes need one of them/);
});

type Objects = ReadonlyMap<string, Rendered>;

async function staticFile(): Promise<Objects> {
  return await parse(await readFile(join(deploy, 'weft.yaml'), 'utf8'));
}

async function kustomize(path: string): Promise<string> {
  const { code, output } = await server.kubectl(['kustomize', join(deploy, path)]);
  if (code !== 0) throw new Error(output);
  return output;
}

async function helmTemplate(values: object = {}): Promise<string> {
  const sets = Object.entries(values).flatMap(([name, value]) => ['--set-json', `${name}=${JSON.stringify(value)}`]);
  const args = ['template', 'weft', chart, '--include-crds', '--kube-version', '1.37.2', ...sets];
  const env = { ...process.env, HOME: server.directory };
  return (await promisify(execFile)(helm, args, { env, maxBuffer: 16 << 20 })).stdout;
}

/** The objects of a manifest as kubectl reads it. */
async function parse(text: string): Promise<Objects> {
  const { code, output } = await server.kubectl(['create', '--dry-run=client', '-o', 'json', '-f', '-'], text);
  if (code !== 0) throw new Error(output);
  // One JSON object after another, each closed by a brace at the start of a line.
  const objects = output
    .split(/(?<=^\}\n)/m)
    .filter((part) => part.trim() !== '')
    .map((part) => JSON.parse(part) as Rendered);
  const named = new Map(objects.map((object) => [`${object.kind}/${object.metadata.name}`, object]));
  expect(named.size).toBe(objects.length);
  return new Map([...named].toSorted(([one], [other]) => one.localeCompare(other)));
}

function configOf(objects: Objects): string {
  return (
    (objects.get('ConfigMap/weft') as unknown as { readonly data: Readonly<Record<string, string>> }).data[
      'config.json'
    ] ?? ''
  );
}

/** A server-side dry run of all; the namespace must exist for that. */
async function expectAccepted(text: string, namespace?: string): Promise<Objects> {
  if (namespace !== undefined) await server.kubectl(['create', 'namespace', namespace]);
  const objects = await parse(text);
  const { code, output } = await server.kubectl(['apply', '--dry-run=server', '-f', '-'], text);
  expect(code, output).toBe(0);
  expect(output.match(/\(server dry run\)/g)?.length).toBe(objects.size);
  return objects;
}

function openDefinition(plural: string, kind: string): unknown {
  const schema = { openAPIV3Schema: { type: 'object', 'x-kubernetes-preserve-unknown-fields': true } };
  return {
    apiVersion: 'apiextensions.k8s.io/v1',
    kind: 'CustomResourceDefinition',
    metadata: { name: `${plural}.monitoring.coreos.com` },
    spec: {
      group: 'monitoring.coreos.com',
      scope: 'Namespaced',
      names: { plural, kind },
      versions: [{ name: 'v1', served: true, storage: true, schema }],
    },
  };
}
