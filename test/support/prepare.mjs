// Makes a bare Debian with Node and npm ready for one stage, then runs that stage's script on the project's own Node 24:
//   node test/support/prepare.mjs STAGE [SCRIPT [ARG…]]
// Plain JavaScript for whatever Node the machine has (18 and newer), built-in modules only: nothing is installed yet when it starts.
import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '../..');
const modules = join(root, 'node_modules');
const nodeBinary = join(modules, 'node/bin/node');

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

/** Runs a command quietly; its output is shown only when it fails. */
function run(what, command, args, env = process.env) {
  const result = spawnSync(command, args, { cwd: root, env, encoding: 'utf8', maxBuffer: 64 << 20 });
  if (result.error) fail(`${what}: cannot run ${command}: ${result.error.message}`);
  if (result.status !== 0) {
    const output = `${result.stdout}${result.stderr}`.trim().split('\n').slice(-30).join('\n');
    fail(`${what} failed (${command} ${args.join(' ')}):\n${output}`);
  }
}

/** One preparation at a time: two `npm test` in one checkout must not both write node_modules. */
function withLock(action) {
  const lock = join(root, '.prepare.lock');
  const deadline = Date.now() + 10 * 60_000;
  let announced = false;
  for (;;) {
    try {
      mkdirSync(lock);
      break;
    } catch (error) {
      if (error.code !== 'EEXIST') fail(`cannot write to ${root}: ${error.message}`);
      const holder = readPid(join(lock, 'pid'));
      const stale =
        holder === undefined ? Date.now() - statSync(lock).mtimeMs > 10_000 : !existsSync(`/proc/${holder}`);
      if (stale) rmSync(lock, { recursive: true, force: true });
      else if (Date.now() > deadline)
        fail(`another preparation (pid ${holder}) holds ${lock} for ten minutes; end it and try again`);
      else {
        if (!announced) say('another preparation is under way, waiting for it');
        announced = true;
        Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 200);
      }
    }
  }
  writeFileSync(join(lock, 'pid'), String(process.pid));
  process.on('exit', () => rmSync(lock, { recursive: true, force: true }));
  action();
  rmSync(lock, { recursive: true, force: true });
}

function readPid(file) {
  try {
    return Number(readFileSync(file, 'utf8')) || undefined;
  } catch {
    return undefined;
  }
}

function installNodePackages() {
  const wanted = createHash('sha256')
    .update(readFileSync(join(root, 'package-lock.json')))
    .digest('hex');
  const stamp = join(modules, '.weft-lock');
  if (existsSync(nodeBinary) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return;
  say('installing npm packages (once, about 20 s) …');
  run('installing npm packages', 'npm', ['ci', '--no-audit', '--no-fund', '--loglevel=error']);
  if (!existsSync(nodeBinary))
    fail('npm ci ended well, but the package `node` brought no binary: npm must be allowed to run its install script');
  writeFileSync(stamp, wanted);
}

function missingDebianPackages(names) {
  return names.filter((name) => {
    const query = spawnSync('dpkg-query', ['-W', '-f', '${db:Status-Status}', name], { encoding: 'utf8' });
    return query.status !== 0 || query.stdout !== 'installed';
  });
}

function installDebianPackages(stage, names) {
  if (names.length === 0) return;
  if (spawnSync('dpkg-query', ['--version']).error) {
    say(`not a Debian: make sure that the programs of these packages are there: ${names.join(' ')}`);
    return;
  }
  const missing = missingDebianPackages(names);
  if (missing.length === 0) return;
  if (process.getuid() !== 0)
    fail(
      `${stage} needs these Debian packages: ${missing.join(' ')}\n      install them with: sudo apt-get install ${missing.join(' ')}`,
    );
  say(`installing Debian packages: ${missing.join(' ')} …`);
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' };
  run('apt-get update', 'apt-get', ['update', '-qq'], env);
  run('apt-get install', 'apt-get', ['install', '-y', '-qq', '--no-install-recommends', ...missing], env);
}

function buildNativeParts() {
  for (const script of ['agent/native/build.ts', 'cni-shim/build.ts'])
    run(`building (${script})`, nodeBinary, [script], ownNodeEnvironment());
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
withLock(() => {
  installNodePackages();
  installDebianPackages(stageName, stage.debian);
  if (stage.native) buildNativeParts();
});
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
