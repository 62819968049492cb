// The cluster's programs, compiled from their Go modules once per machine into a cache outside the work tree. The cache's name
// holds a digest of the recipe; each program is built beside its place and renamed into it, so what is there is whole.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { access, copyFile, mkdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

import { attempt, lockFile, run } from './host.ts';

export const kubernetesVersion = '1.37.2';
const containerdVersion = '2.4.2';
const corednsVersion = '1.15.0';
const pluginsVersion = '1.9.1';
const helmVersion = '4.3.1';
const goVersion = '1.26.0';

const kubernetesFlags: string = [
  '-s -w',
  ...['k8s.io/component-base/version', 'k8s.io/client-go/pkg/version'].map(
    (path) => `-X ${path}.gitVersion=v${kubernetesVersion}`,
  ),
  `-X k8s.io/component-base/version.gitMajor=${kubernetesVersion.split('.')[0]}`,
  `-X k8s.io/component-base/version.gitMinor=${kubernetesVersion.split('.')[1]}`,
  '-X k8s.io/component-base/version.gitTreeState=archive',
  '-X k8s.io/component-base/version.gitCommit=proxy',
].join(' ');

interface Program {
  /** File name in the cache. */
  readonly name: string;
  readonly module: 'kubernetes' | 'containerd' | 'coredns' | 'plugins' | 'pause' | 'helm';
  readonly package: string;
  readonly ldflags: string;
  readonly tags?: string;
  /** A test binary: `go test -c`. */
  readonly test?: true;
}

const kubernetesProgram = (name: string, path = `cmd/${name}`): Program => ({
  name,
  module: 'kubernetes',
  package: `k8s.io/kubernetes/${path}`,
  ldflags: kubernetesFlags,
});
const containerdProgram = (name: string): Program => ({
  name,
  module: 'containerd',
  package: `github.com/containerd/containerd/v2/cmd/${name}`,
  ldflags: `-s -w -X github.com/containerd/containerd/v2/version.Version=v${containerdVersion}`,
  tags: 'no_btrfs no_zfs no_aufs no_devmapper',
});
const plugin = (path: string): Program => ({
  name: `cni/${path.split('/')[1]}`,
  module: 'plugins',
  package: `github.com/containernetworking/plugins/plugins/${path}`,
  ldflags: '-s -w',
});

const programs: readonly Program[] = [
  ...['kube-apiserver', 'kube-controller-manager', 'kube-scheduler', 'kubelet', 'kube-proxy', 'kubectl'].map((name) =>
    kubernetesProgram(name),
  ),
  { name: 'etcd', module: 'kubernetes', package: 'go.etcd.io/etcd/server/v3', ldflags: '-s -w' },
  kubernetesProgram('agnhost', 'test/images/agnhost'),
  ...['containerd', 'ctr', 'containerd-shim-runc-v2'].map((name) => containerdProgram(name)),
  { name: 'coredns', module: 'coredns', package: '.', ldflags: '-s -w' },
  // The reference plugins prove the cluster itself (cli.ts up --cni bridge); the tests of Weft do not use them.
  ...['main/bridge', 'main/loopback', 'ipam/host-local', 'meta/portmap'].map((path) => plugin(path)),
  { name: 'pause', module: 'pause', package: '.', ldflags: '-s -w' },
];

export type ExtraSet = 'conformance' | 'helm';

/** What only some runs need, each set in a cache of its own: upstream's e2e suite, Helm. */
const extras: Readonly<Record<ExtraSet, readonly Program[]>> = {
  conformance: [
    { ...kubernetesProgram('e2e.test', 'test/e2e'), test: true },
    { name: 'ginkgo', module: 'kubernetes', package: 'github.com/onsi/ginkgo/v2/ginkgo', ldflags: '-s -w' },
  ],
  helm: [{ name: 'helm', module: 'helm', package: 'helm.sh/helm/v4/cmd/helm', ldflags: '-s -w' }],
};

const sources = new URL('./go/', import.meta.url).pathname;

/** Where caches live: `$WEFT_CACHE`, else `/var/cache/weft`. */
export function cacheDirectory(): string {
  return process.env['WEFT_CACHE'] ?? '/var/cache/weft';
}

function digestOf(recipe: unknown): string {
  return createHash('sha256').update(JSON.stringify(recipe)).digest('hex').slice(0, 8);
}

function clusterCache(): string {
  const own = ['coredns.go', 'pause.go'].map((name) => readFileSync(join(sources, name), 'utf8'));
  const digest = digestOf([programs, goVersion, containerdVersion, corednsVersion, pluginsVersion, own]);
  return join(cacheDirectory(), `cluster-${kubernetesVersion}-${digest}`);
}

async function exists(path: string): Promise<boolean> {
  return await access(path).then(
    () => true,
    () => false,
  );
}

/**
 * Compiles what the cache lacks and returns the directory of programs. `say` gets one line per program that is built.
 * Two at once: the second waits. Throws in plain words when Go is missing.
 */
export async function ensurePrograms(say: (line: string) => void): Promise<string> {
  return await ensure(programs, clusterCache(), 'cluster programs', say);
}

/** One of the cluster's programs, for those who need no cluster; its path. */
export async function ensureProgram(name: string, say: (line: string) => void): Promise<string> {
  const cache = clusterCache();
  const path = join(cache, 'bin', name);
  const program = programs.find((one) => one.name === name);
  if (program === undefined) throw new Error(`the cluster has no program ${name}`);
  if (await exists(path)) return path;
  await using _lock = await lockFile(join(cache, 'lock'), () => say('another run is building, waiting for it'));
  if (await exists(path)) return path;
  await requireGo();
  await build(program, cache, join(cache, 'bin'), '1/1', say);
  return path;
}

/** The same for a further set of programs. */
export async function ensureExtra(set: ExtraSet, say: (line: string) => void): Promise<string> {
  const digest = digestOf([extras[set], goVersion, helmVersion, kubernetesVersion]);
  return await ensure(extras[set], join(cacheDirectory(), `${set}-${digest}`), `programs for ${set}`, say);
}

async function ensure(
  wanted: readonly Program[],
  cache: string,
  what: string,
  say: (line: string) => void,
): Promise<string> {
  const bin = join(cache, 'bin');
  const stamp = join(cache, 'complete');
  if (await exists(stamp)) return bin;
  await using _lock = await lockFile(join(cache, 'lock'), () =>
    say(`another run is building the ${what}, waiting for it`),
  );
  if (await exists(stamp)) return bin;
  await requireGo();
  // What a killed build left half written is no object file, and the linker would refuse to replace it.
  await rm(join(cache, 'unfinished'), { recursive: true, force: true });
  const missing: Program[] = [];
  for (const program of wanted) if (!(await exists(join(bin, program.name)))) missing.push(program);
  say(`building ${missing.length} ${what} into ${bin} (once per machine, minutes on two cores)`);
  for (const [index, program] of missing.entries())
    await build(program, cache, bin, `${index + 1}/${missing.length}`, say);
  await writeFile(stamp, `${new Date().toISOString()}\n`);
  return bin;
}

async function requireGo(): Promise<void> {
  const version = await attempt(['go', 'env', 'GOVERSION']).catch(() => undefined);
  if (version?.code === 0) return;
  throw new Error(
    `the test cluster's programs are compiled with Go, and there is no working \`go\` on PATH.\n` +
      `Install Go ${goVersion.replace(/\.0$/, '')} or newer (https://go.dev/dl) and run this again.`,
  );
}

async function build(
  program: Program,
  cache: string,
  bin: string,
  position: string,
  say: (line: string) => void,
): Promise<void> {
  const beganMs = performance.now();
  const directory = await prepareModule(program, cache);
  const unfinished = join(cache, 'unfinished', program.name);
  const target = join(bin, program.name);
  for (const path of [unfinished, target]) await mkdir(join(path, '..'), { recursive: true });
  const tags = program.tags === undefined ? [] : ['-tags', program.tags];
  const verb = program.test === true ? ['test', '-c', '-vet=off'] : ['build'];
  await run(
    ['nice', 'go', ...verb, '-mod=mod', ...tags, '-ldflags', program.ldflags, '-o', unfinished, program.package],
    { cwd: directory, env: goEnvironment },
  );
  await rename(unfinished, target);
  say(`  ${position} ${program.name} (${((performance.now() - beganMs) / 1000).toFixed(0)} s)`);
}

export const goEnvironment: Readonly<Record<string, string>> = {
  CGO_ENABLED: '0',
  GOFLAGS: '-trimpath -buildvcs=false',
  GOWORK: 'off',
};

/** One Go module per upstream project; kube's needs a `replace` for each of its staging modules. */
async function prepareModule(program: Program, cache: string): Promise<string> {
  const directory = join(cache, 'modules', program.module);
  if (await exists(join(directory, 'go.mod'))) return directory;
  const preparing = `${directory}.unfinished`;
  await rm(preparing, { recursive: true, force: true });
  await mkdir(preparing, { recursive: true });
  const header = `module weft.test/${program.module}\n\ngo ${goVersion}\n\n`;
  switch (program.module) {
    case 'kubernetes':
      await writeFile(join(preparing, 'go.mod'), header + (await kubernetesRequirements()));
      await writeFile(join(preparing, 'doc.go'), 'package kubernetes\n');
      break;
    case 'containerd':
      await requireOnly(preparing, header, `github.com/containerd/containerd/v2 v${containerdVersion}`);
      break;
    case 'plugins':
      await requireOnly(preparing, header, `github.com/containernetworking/plugins v${pluginsVersion}`);
      break;
    case 'helm':
      await requireOnly(preparing, header, `helm.sh/helm/v4 v${helmVersion}`);
      break;
    case 'coredns':
      await writeFile(join(preparing, 'go.mod'), `${header}require github.com/coredns/coredns v${corednsVersion}\n`);
      await copyFile(join(sources, 'coredns.go'), join(preparing, 'main.go'));
      break;
    case 'pause':
      await writeFile(join(preparing, 'go.mod'), header);
      await copyFile(join(sources, 'pause.go'), join(preparing, 'main.go'));
      break;
  }
  await rename(preparing, directory);
  return directory;
}

/** A module of no code of its own. */
async function requireOnly(directory: string, header: string, requirement: string): Promise<void> {
  await writeFile(join(directory, 'go.mod'), `${header}require ${requirement}\n`);
  await writeFile(join(directory, 'doc.go'), 'package programs\n');
}

interface Download {
  readonly Dir: string;
  readonly GoMod: string;
}

async function downloadKubernetes(): Promise<Download> {
  const module = `k8s.io/kubernetes@v${kubernetesVersion}`;
  return JSON.parse(await run(['go', 'mod', 'download', '-json', module], { env: goEnvironment })) as Download;
}

/** Where Go keeps the sources of the release that the programs are built from. */
export async function kubernetesSources(): Promise<string> {
  return (await downloadKubernetes()).Dir;
}

async function kubernetesRequirements(): Promise<string> {
  const { GoMod: goMod } = await downloadKubernetes();
  const edit = JSON.parse(await run(['go', 'mod', 'edit', '-json', goMod])) as {
    readonly Replace?: readonly { readonly Old: { readonly Path: string }; readonly New: { readonly Path: string } }[];
  };
  const staging = (edit.Replace ?? [])
    .filter((one) => one.New.Path.startsWith('./staging/'))
    .map((one) => one.Old.Path);
  if (staging.length === 0) throw new Error(`k8s.io/kubernetes ${kubernetesVersion} names no staging modules`);
  const version = `v0.${kubernetesVersion.split('.').slice(1).join('.')}`;
  const replaces = staging.map((path) => `\t${path} => ${path} ${version}\n`).join('');
  return `godebug default=go1.26\n\nrequire k8s.io/kubernetes v${kubernetesVersion}\n\nreplace (\n${replaces})\n`;
}
