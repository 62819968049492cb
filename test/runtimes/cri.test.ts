// Debian's containerd 1.6 and containerd 2 as kubelet uses them, over a host with a real agent: a foreign network that sorts first, and
// STATUS, by which containerd 2 decides whether a node is ready.

import { type ChildProcess, spawn } from 'node:child_process';
import { cp, mkdir, open, readdir, readFile, rm, rmdir, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, expect, test } from 'vitest';

import { writeConflist } from '#agent/cni/conflist.ts';
import { writeImage } from '#test/e2e/cluster/archive.ts';
import { ensureProgram } from '#test/e2e/cluster/programs.ts';
import type { AgentHost } from '#test/support/agent-host.ts';
import { createCniHost } from '#test/support/cni-host.ts';
import { referencePlugins } from '#test/support/conf-list.ts';
import { run, type TestNetns } from '#test/support/netns.ts';
import { shimPath } from '../../cni-shim/build.ts';
import { Cri } from './cri.ts';

const patient = { timeout: 90_000, interval: 500 } as const;
const slow = { timeout: 300_000 } as const;
const weft = fileURLToPath(new URL('../../agent/cli/weft.ts', import.meta.url));
const pauseImage = 'localhost/pause:1';

/** The pods' corner of every control group hierarchy: what alone would outlive a run. */
const corner = `/weft-runtimes-${process.pid}`;

afterAll(async () => {
  for (const entry of ['', ...(await readdir('/sys/fs/cgroup'))]) {
    const path = join('/sys/fs/cgroup', entry, corner);
    for (const pod of await readdir(path, { withFileTypes: true }).catch(() => []))
      if (pod.isDirectory()) await rmdir(join(path, pod.name)).catch(() => undefined);
    await rmdir(path).catch(() => undefined);
  }
});

/** containerd in the namespace of a host, with the host's own files and the agent's own configuration. */
class Runtime implements AsyncDisposable {
  readonly cri: Cri;
  readonly #directory: string;
  readonly #child: ChildProcess;

  private constructor(directory: string, child: ChildProcess) {
    this.#directory = directory;
    this.#child = child;
    this.cri = new Cri(join(directory, 'containerd.sock'));
  }

  static async start(program: string, host: AgentHost, netns: TestNetns): Promise<Runtime> {
    const directory = join(host.directory, 'containerd');
    const plugins = join(host.directory, 'cni-bin');
    await mkdir(directory);
    await mkdir(plugins);
    await symlink(shimPath, join(plugins, 'weft'));
    for (const name of ['loopback', 'bridge', 'host-local'])
      await cp(join(referencePlugins, name), join(plugins, name));
    const config = `version = 2
root = "${directory}/root"
state = "${directory}/state"
[grpc]
address = "${directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "${pauseImage}"
disable_apparmor = true
tolerate_missing_hugetlb_controller = true
restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "${dirname(String(host.settings['conflistPath']))}"
bin_dir = "${plugins}"
`;
    await writeFile(join(directory, 'config.toml'), config);
    await mkdir(dirname(String(host.settings['conflistPath'])), { recursive: true });
    const out = await open(join(directory, 'log'), 'a');
    // The shim is told where this host's agent is.
    const paths = { WEFT_SOCKET: host.socketPath, WEFT_SPOOL_DIR: host.spoolDir };
    const env = { PATH: `${program.includes('/') ? `${dirname(program)}:` : ''}${process.env['PATH']}`, ...paths };
    const words = [`--net=${netns.path}`, '--', program, '--config', join(directory, 'config.toml')];
    const child = spawn('nsenter', words, { stdio: ['ignore', out.fd, out.fd], env });
    await out.close();
    const runtime = new Runtime(directory, child);
    await expect.poll(() => runtime.cri.networkReady().then(() => 'answers', String), patient).toBe('answers');
    return runtime;
  }

  /** The image that every pod begins with. */
  async importPause(program: string): Promise<void> {
    const root = join(this.#directory, 'pause-root');
    await mkdir(root);
    await cp(await ensureProgram('pause', console.log), join(root, 'pause'));
    const file = join(this.#directory, 'pause.tar');
    await writeImage(file, { root, tags: [pauseImage], entrypoint: ['/pause'] });
    const ctr = program.includes('/') ? join(dirname(program), 'ctr') : 'ctr';
    const where = ['--address', join(this.#directory, 'containerd.sock'), '--namespace', 'k8s.io'];
    // Version 2 would leave the unpacking to a service that has no configuration for this snapshotter.
    const local = (await run([ctr, 'images', 'import', '--help'])).includes('--local') ? ['--local'] : [];
    await run([ctr, ...where, 'images', 'import', ...local, '--snapshotter', 'native', file]);
  }

  run(name: string): Promise<string> {
    return this.cri.runSandbox(name, { logDirectory: join(this.#directory, 'pods'), cgroupParent: corner });
  }

  log(): Promise<string> {
    return readFile(join(this.#directory, 'log'), 'utf8');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await ended;
    // What a failed test leaves: the pods' processes, and what is mounted for them.
    for (const entry of ['', ...(await readdir('/sys/fs/cgroup'))])
      await run(['sh', '-c', `cat /sys/fs/cgroup/${entry}${corner}/*/cgroup.procs | xargs -r kill -9`]).catch(() => '');
    const mounts = (await readFile('/proc/self/mounts', 'utf8')).split('\n').map((line) => line.split(' ')[1] ?? '');
    for (const mount of mounts.toReversed()) if (mount.startsWith(this.#directory)) await run(['umount', '-l', mount]);
  }
}

const programs: Readonly<Record<string, () => Promise<string>>> = {
  'Debian’s 1.6': () => Promise.resolve('containerd'),
  '2': async () => {
    await ensureProgram('containerd-shim-runc-v2', console.log);
    await ensureProgram('ctr', console.log);
    return await ensureProgram('containerd', console.log);
  },
};

test.each(Object.keys(programs))(
  'containerd %s: a valid foreign file that sorts first takes new pods, doctor says so, and nothing of Weft’s stays held',
  slow,
  async (name) => {
    const program = (await programs[name]?.()) ?? '';
    const { host, hostNetns } = await createCniHost({ collectMs: 1000 });
    await using _host = host;
    await using runtime = await Runtime.start(program, host, hostNetns);
    await runtime.importPause(program);
    const { cri } = runtime;
    await expect.poll(async () => (await cri.networkReady()).isTrue, patient).toBe(true);
    const own = await runtime.run('own');
    expect(await cri.sandboxAddress(own)).toMatch(/^10\.32\./);
    expect(await host.leasedAddresses()).toBe(1);

    const foreign = join(host.directory, 'net.d/00-foreign.conflist');
    const ipam = {
      type: 'host-local',
      ranges: [[{ subnet: '10.77.0.0/24' }]],
      dataDir: join(host.directory, 'foreign'),
    };
    const plugins = [{ type: 'bridge', bridge: 'foreign0', isGateway: true, ipam }];
    await writeFile(foreign, JSON.stringify({ cniVersion: '1.0.0', name: 'foreign', plugins }));
    const started: string[] = [];
    const addressOfNext = async (): Promise<string> => {
      started.push(await runtime.run(`next${started.length}`));
      return await cri.sandboxAddress(started.at(-1) ?? '');
    };
    // No error anywhere: the node stays ready, and its new pods are the other network's.
    await expect.poll(addressOfNext, patient).toMatch(/^10\.77\.0\./);
    expect((await cri.networkReady()).isTrue).toBe(true);
    // The agent looks at its host once a minute; doctor ends with 1 then.
    const doctor = ['sh', '-c', '"$@" || true', 'sh', process.execPath, weft, 'doctor'];
    await expect.poll(() => hostNetns.exec(doctor), patient).toContain('00-foreign.conflist');
    const said = await hostNetns.exec(doctor);
    expect(said).toContain('it sorts before 05-weft.conflist, so the runtime uses it');
    expect(said).toContain('Remove or rename the named file');

    // The DEL of Weft's pod goes to the other network's plugin: it ends all the same, and Weft finds out by itself.
    await cri.stopSandbox(own);
    await cri.removeSandbox(own);
    await rm(foreign);
    await expect.poll(addressOfNext, patient).toMatch(/^10\.32\./);
    for (const id of started) {
      await cri.stopSandbox(id);
      await cri.removeSandbox(id);
    }
    await expect.poll(() => host.leasedAddresses(), patient).toBe(0);
    await host.stop();
  },
);

test('containerd 2: STATUS makes the node NotReady and Ready as designed', slow, async () => {
  const program = (await programs['2']?.()) ?? '';
  const { host, hostNetns } = await createCniHost({}, false);
  await using _host = host;
  await using runtime = await Runtime.start(program, host, hostNetns);
  const { cri } = runtime;
  const ready = async (): Promise<boolean> => (await cri.networkReady()).isTrue;
  expect(await cri.networkReady()).toMatchObject({
    isTrue: false,
    message: expect.stringMatching(/cni config|not initialized/i),
  });

  // The file is there from before the reboot, and no agent has served since: code 50.
  await writeConflist(String(host.settings['conflistPath']));
  await expect.poll(async () => (await cri.networkReady()).message, patient).toMatch(/weft agent/);
  expect(await ready()).toBe(false);
  await host.start();
  await expect.poll(ready, patient).toBe(true);

  // An agent that is replaced is no outage; one that has been silent for longer than its mark says is.
  await host.stop('SIGKILL');
  expect(await ready()).toBe(true);
  const mark = join(host.directory, 'run/served');
  const [bootId] = (await readFile(mark, 'utf8')).split(' ');
  await writeFile(mark, `${bootId} 1\n`);
  await expect.poll(ready, patient).toBe(false);
  await host.start();
  await expect.poll(ready, patient).toBe(true);

  // Code 51: pods of this node are cut off from other nodes, and have been for half a minute.
  const pod = await run(['ip', 'netns', 'add', 'suffering']).then(() => '/run/netns/suffering');
  expect(await host.cni('ADD', { netns: pod })).toMatchObject({ code: 0 });
  await hostNetns.exec(['ip', 'link', 'set', 'eth0', 'down']);
  await expect.poll(async () => (await cri.networkReady()).message, patient).toMatch(/cut off/);
  expect(await ready()).toBe(false);
  await hostNetns.exec(['ip', 'link', 'set', 'eth0', 'up']);
  await expect.poll(ready, patient).toBe(true);
  expect(await host.cni('DEL', { netns: pod })).toMatchObject({ code: 0 });
  await run(['ip', 'netns', 'delete', 'suffering']);
});
