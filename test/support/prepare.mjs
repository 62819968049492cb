// Makes a bare Debian with Node and npm ready for one stage, then runs that stage's script on the project's own Node 24:
//   node test/support/prepare.mjs STAGE [SCRIPT [ARG…]]
// Plain JavaScript for whatever Node the machine has (18 and newer), built-in modules only: nothing is installed yet when it starts.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const modules = join(root, 'node_modules');
const nodeBinary = join(modules, 'node/bin/node');

/** File descriptor of the lock, as long as something is prepared. */
let lock;
/** What `flock` says when somebody else has the lock. */
const held = 1;

const compilers = ['gcc', 'libc6-dev', 'musl-tools'];
const clusterTools =
  'runc iptables conntrack ipset kmod socat ethtool openssl busybox wget curl bind9-dnsutils netcat-openbsd buildah debootstrap ca-certificates'.split(
    ' ',
  );
const hostTools = ['iproute2', 'nftables', 'libnftables1', 'iputils-ping', 'procps'];

/** What each stage needs beyond the npm packages. A stage that is not here does not exist. */
const stages = {
  check: { debian: [], native: false, root: false },
  native: { debian: compilers, native: true, root: false },
  lab: { debian: [...compilers, ...hostTools], native: true, root: true },
  // The reference plugins that Weft works with, and what they execute; python3 sends what Node cannot (raw sockets, broadcasts); busybox
  // is the DHCP server.
  test: {
    debian: [...compilers, ...hostTools, 'containernetworking-plugins', 'iptables', 'python3', 'busybox'],
    native: true,
    root: true,
  },
  bench: { debian: [...compilers, ...hostTools, 'containernetworking-plugins', 'iptables'], native: true, root: true },
  fuzz: { debian: [...compilers, 'clang', 'libclang-rt-14-dev'], native: true, root: false },
  runtimes: {
    debian: [
      ...compilers,
      ...hostTools,
      'podman',
      'crun',
      'containerd',
      'containernetworking-plugins',
      'ca-certificates',
    ],
    native: true,
    root: true,
  },
  vm: {
    debian: [...compilers, ...hostTools, 'qemu-system-x86', 'debootstrap', 'e2fsprogs'],
    native: true,
    root: true,
  },
  e2e: {
    debian: [...compilers, ...hostTools, ...clusterTools],
    native: true,
    root: true,
  },
};

function fail(message) {
  process.stderr.write(`weft: ${message}\n`);
  process.exit(1);
}

function say(message) {
  process.stderr.write(`weft: ${message}\n`);
}

function unprepared(message) {
  throw new Error(message);
}

/** Runs a command quietly. */
async function quietly(command, args, env) {
  const child = spawn(command, args, { cwd: root, env, stdio: ['ignore', 'pipe', 'pipe', lock] });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', (text) => (output += text));
  const status = await new Promise((resolve) => {
    child.on('error', (error) => (output = error.message));
    child.on('close', resolve);
  });
  return { ok: status === 0, output };
}

/** Runs a command quietly; its output, after what led to it, is shown only when it fails. */
async function run(what, command, args, env = process.env, before = '') {
  const { ok, output } = await quietly(command, args, env);
  if (ok) return;
  const end = `${before}\n${output}`.trim().split('\n').slice(-30).join('\n');
  unprepared(`${what} failed (${command} ${args.join(' ')}):\n${end}`);
}

/**
 * One preparation at a time: two `npm test` in one checkout must not both write node_modules. The lock is the kernel's, on the open
 * folder, which every command of the preparation has open too: what outlives a killed preparation is waited for like a preparation.
 */
function takeLock() {
  lock = openSync(root, 'r');
  if (flock('--nonblock') !== held) return;
  say('another preparation is under way, waiting for it');
  if (flock('--timeout', '600') === held)
    fail('another preparation has been under way for ten minutes; end it and try again');
}

/** Exit status of `flock`. Any other than 0 and `held` means that this file system has no locks: it is done without. */
function flock(...options) {
  const result = spawnSync('flock', [...options, '3'], { stdio: ['ignore', 'ignore', 'ignore', lock] });
  if (result.error) fail(`cannot run flock (package util-linux): ${result.error.message}`);
  return result.status;
}

async function installNodePackages() {
  const wanted = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  const stamp = join(modules, '.weft-lock');
  if (existsSync(nodeBinary) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  say('installing npm packages (once, about 20 s) …');
  // The tools are development packages, which NODE_ENV=production and a user's `omit` leave out; what they ask of Node is asked of the
  // project's own, not of the one that npm runs on.
  const quiet = ['--no-audit', '--no-fund', '--loglevel=error'];
  await run('installing npm packages', 'npm', ['ci', '--include=dev', '--engine-strict=false', ...quiet]);
  if (!existsSync(nodeBinary))
    unprepared(
      'npm ci ended well, but the package `node` brought no binary: npm must be allowed to run its install script\n      (npm config get ignore-scripts says whether it is), for example: npm_config_ignore_scripts=false npm ci',
    );
  writeFileSync(stamp, wanted);
}

function missingDebianPackages(names) {
  return names.filter((name) => {
    const query = spawnSync('dpkg-query', ['-W', '-f', '${db:Status-Status}', name], { encoding: 'utf8' });
    return query.status !== 0 || query.stdout !== 'installed';
  });
}

async function installDebianPackages(stage, names) {
  if (names.length === 0) return;
  if (spawnSync('dpkg-query', ['--version']).error) {
    say(`not a Debian: make sure that the programs of these packages are there: ${names.join(' ')}`);
    return;
  }
  const missing = missingDebianPackages(names);
  if (missing.length === 0) return;
  if (process.getuid() !== 0)
    unprepared(
      `${stage} needs these Debian packages: ${missing.join(' ')}\n      install them with: sudo apt-get install ${missing.join(' ')}`,
    );
  say(`installing Debian packages: ${missing.join(' ')} …`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  // A source of somebody else's that is broken fails the update, not what is needed here; one that cannot be reached does not even
  // fail it, and the install then knows no package: what the update said is shown with that.
  const updated = await quietly('apt-get', ['update', '-qq'], env);
  const install = ['install', '-y', '-qq', '--no-install-recommends', '-o', 'DPkg::Lock::Timeout=120', ...missing];
  await run('apt-get install', 'apt-get', install, env, updated.output);
}

async function buildNativeParts() {
  const build = (script) => run(`building (${script})`, nodeBinary, [script], ownNodeEnvironment());
  await Promise.all(['agent/native/build.ts', 'cni-shim/build.ts'].map(build));
}

/** The project's Node 24 and its tools first on PATH, for the script and all that it starts. */
function ownNodeEnvironment() {
  return { ...process.env, PATH: `${join(modules, '.bin')}:${process.env.PATH ?? ''}` };
}

const [stageName = '', script, ...args] = process.argv.slice(2);
const stage = stages[stageName];
if (stage === undefined) fail(`unknown stage "${stageName}"; one of: ${Object.keys(stages).join(', ')}`);
if (process.platform !== 'linux') fail("Weft runs on Linux: network namespaces, VXLAN and nftables are the kernel's");
if (stage.root && process.getuid() !== 0) {
  fail(
    `this needs root, because it makes network namespaces, links and nftables rules (its own, removed at the end).\n      Run it again as root, for example: sudo npm ${process.env.npm_lifecycle_event === 'start' ? 'start' : `run ${process.env.npm_lifecycle_event ?? stageName}`}`,
  );
}
takeLock();
// Side by side; where one fails the other is not cut off half-way.
const installed = await Promise.allSettled([installNodePackages(), installDebianPackages(stageName, stage.debian)]);
if (stage.native && installed.every(({ status }) => status === 'fulfilled'))
  installed.push(...(await Promise.allSettled([buildNativeParts()])));
const reasons = installed.flatMap(({ status, reason }) => (status === 'rejected' ? [reason.message] : []));
if (reasons.length > 0) fail(reasons.join('\nweft: '));
closeSync(lock);
if (script === undefined) process.exit(0);

const child = spawn(nodeBinary, ['--disable-warning=ExperimentalWarning', script, ...args], {
  cwd: root,
  stdio: 'inherit',
  env: ownNodeEnvironment(),
});
// The terminal sends Ctrl-C to the whole process group; a signal sent to this process alone is handed on.
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'])
  process.on(signal, () => signal === 'SIGINT' || child.kill(signal));
child.on('error', (error) => fail(`cannot run ${script}: ${error.message}`));
child.on('exit', (code, signal) => process.exit(code ?? (signal === 'SIGINT' ? 130 : 1)));
