// Debian's containerd 1.6 and containerd 2, and the directory of network configurations: how they take Weft's file, written as the agent
// writes it, and what files of others do to it. Their own logs say what they have loaded.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { expect, test } from 'vitest';

import { conflistText, writeConflist } from '#agent/cni/conflist.ts';
import { ensureProgram } from '#test/e2e/cluster/programs.ts';

const patient = { timeout: 60_000 } as const;
const failed = 'failed to reload cni configuration';

class Containerd implements AsyncDisposable {
  readonly netD: string;
  readonly #directory: string;
  readonly #logPath: string;
  readonly #child: ChildProcess;

  private constructor(directory: string, logPath: string, child: ChildProcess) {
    this.#directory = directory;
    this.netD = join(directory, 'net.d');
    this.#logPath = logPath;
    this.#child = child;
  }

  static async start(program: string): Promise<Containerd> {
    const directory = await mkdtemp(join(tmpdir(), 'weft-containerd-'));
    const logPath = join(directory, 'log');
    await mkdir(join(directory, 'net.d'));
    const config = `version = 2
root = "${directory}/root"
state = "${directory}/state"
[grpc]
address = "${directory}/containerd.sock"
[debug]
level = "debug"
[plugins."io.containerd.grpc.v1.cri"]
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "native"
[plugins."io.containerd.grpc.v1.cri".cni]
conf_dir = "${directory}/net.d"
bin_dir = "${directory}/bin"
`;
    await writeFile(join(directory, 'config.toml'), config);
    const out = await open(logPath, 'a');
    const child = spawn(program, ['--config', join(directory, 'config.toml')], { stdio: ['ignore', out.fd, out.fd] });
    await out.close();
    return new Containerd(directory, logPath, child);
  }

  log(): Promise<string> {
    return readFile(this.#logPath, 'utf8');
  }

  /** What it says from now on. */
  async since(action: () => Promise<unknown>): Promise<() => Promise<string>> {
    const { length } = await this.log();
    await action();
    return async () => (await this.log()).slice(length);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const ended = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await ended;
    await rm(this.#directory, { recursive: true, force: true });
  }
}

const programs: Readonly<Record<string, () => Promise<string>>> = {
  'Debian’s 1.6': () => Promise.resolve('containerd'),
  // That of the test cluster.
  '2': () => ensureProgram('containerd', console.log),
};

test.each(Object.keys(programs))(
  'containerd %s loads Weft’s file when it is renamed into place; a broken foreign file matters only in front of it',
  async (name) => {
    await using containerd = await Containerd.start((await programs[name]?.()) ?? '');
    const { netD } = containerd;
    const log = (): Promise<string> => containerd.log();
    const since = (action: () => Promise<unknown>): Promise<() => Promise<string>> => containerd.since(action);
    await expect.poll(log, patient).toContain('containerd successfully booted');
    expect(await log()).toContain('no network config found');
    const written = await since(() => writeConflist(join(netD, '05-weft.conflist'), conflistText()));
    await expect.poll(written, patient).toMatch(/receiving change event from cni conf dir: RENAME/);

    // Behind Weft's: containerd reads no further than the first that it can use.
    const behind = await since(() => writeFile(join(netD, '10-foreign.conflist'), '{'));
    await expect.poll(behind, patient).toMatch(/receiving change event .*10-foreign\.conflist/);
    expect((await written()).split('RENAME').slice(1).join()).not.toContain(failed);

    // In front: nothing loads, and the node would be NotReady. `weft doctor` names such a file.
    const inFront = await since(() => rename(join(netD, '10-foreign.conflist'), join(netD, '00-foreign.conflist')));
    await expect.poll(inFront, patient).toMatch(/failed to load CNI config list file .*00-foreign\.conflist/);

    const removed = await since(() => rm(join(netD, '00-foreign.conflist')));
    await expect.poll(removed, patient).toMatch(/receiving change event .*REMOVE/);
    const after = await since(() => writeFile(join(netD, '10-other.conflist'), conflistText()));
    await expect.poll(after, patient).toMatch(/receiving change event .*10-other\.conflist/);
    expect(await removed()).not.toContain(failed);
  },
  900_000,
);
