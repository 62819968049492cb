// Debian's containerd 1.6 and the directory of network configurations: how it takes Weft's file, written as the agent writes it, and what
// files of others do to it. Its own log says what it has loaded.

import { type ChildProcess, spawn } from 'node:child_process';
import { mkdir, mkdtemp, open, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, test } from 'vitest';

import { conflistText, writeConflist } from '#agent/cni/conflist.ts';

let directory = '';
let netD = '';
let logPath = '';
let containerd: ChildProcess;

const log = (): Promise<string> => readFile(logPath, 'utf8');
const patient = { timeout: 60_000 } as const;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-containerd-'));
  netD = join(directory, 'net.d');
  logPath = join(directory, 'log');
  await mkdir(netD);
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
conf_dir = "${netD}"
bin_dir = "${directory}/bin"
`;
  await writeFile(join(directory, 'config.toml'), config);
  const out = await open(logPath, 'a');
  containerd = spawn('containerd', ['--config', join(directory, 'config.toml')], { stdio: ['ignore', out.fd, out.fd] });
  await out.close();
}, 90_000);

afterAll(async () => {
  const ended = new Promise((resolve) => containerd.once('exit', resolve));
  containerd.kill('SIGKILL');
  await ended;
  await rm(directory, { recursive: true, force: true });
});

/** What containerd says from now on. */
async function since(action: () => Promise<unknown>): Promise<() => Promise<string>> {
  const { length } = await log();
  await action();
  return async () => (await log()).slice(length);
}

const failed = 'failed to reload cni configuration';

test(
  'Weft’s file is loaded when it is renamed into place; a broken foreign file matters only in front of it',
  { timeout: 180_000 },
  async () => {
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
);
