// The addon's build: skips when nothing changed, never leaves half a file, says what is missing in words.
import { execFile } from 'node:child_process';
import { mkdtemp, readdir, rm, stat, utimes } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const script = fileURLToPath(import.meta.resolve('#agent/native/build.ts'));
const addonModule = import.meta.resolve('#agent/native/addon.ts');

interface Outcome {
  readonly code: number;
  readonly stderr: string;
}

async function node(args: readonly string[], env: NodeJS.ProcessEnv = {}): Promise<Outcome> {
  return new Promise((resolve) => {
    execFile(process.execPath, args, { env: { ...process.env, ...env } }, (error, _stdout, stderr) => {
      resolve({ code: error === null ? 0 : 1, stderr });
    });
  });
}

let directory: string;
beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-build-'));
});
afterAll(async () => rm(directory, { recursive: true }));

describe('agent/native/build.ts', () => {
  it('builds without a warning where it is told to, skips when newer than the sources, builds again when older', async () => {
    const output = join(directory, 'deep/weft.node');
    expect(await node([script, output])).toEqual({ code: 0, stderr: '' });
    const first = await stat(output);
    expect((await node([script, output], { CC: '/nonexistent/cc' })).code).toBe(0);
    expect((await stat(output)).ino).toBe(first.ino);
    await utimes(output, new Date(0), new Date(0));
    expect((await node([script, output])).code).toBe(0);
    expect((await stat(output)).ino).not.toBe(first.ino);
    expect(await readdir(join(directory, 'deep'))).toEqual(['weft.node']);
    const load = `const { nativeAddon } = await import(${JSON.stringify(addonModule)}); nativeAddon().netnsInfo('/');`;
    expect(await node(['--input-type=module', '-e', load], { WEFT_ADDON: output })).toMatchObject({ code: 0 });
  }, 120_000);

  it('says that there is no compiler, and how to get one', async () => {
    const outcome = await node([script, join(directory, 'none.node')], { CC: '/nonexistent/cc' });
    expect(outcome.code).toBe(1);
    expect(outcome.stderr).toContain('no C compiler');
    expect(outcome.stderr).toContain('apt-get install gcc libc6-dev');
  });

  it('leaves nothing when the compiler fails', async () => {
    const outcome = await node([script, join(directory, 'failed/weft.node')], { CC: 'false' });
    expect(outcome.code).toBe(1);
    expect(await readdir(join(directory, 'failed'))).toEqual([]);
  });

  it('a missing addon is a catalogue error that names the file and the command', async () => {
    const load = `const { nativeAddon } = await import(${JSON.stringify(addonModule)}); nativeAddon();`;
    const outcome = await node(['--input-type=module', '-e', load], { WEFT_ADDON: '/nonexistent/weft.node' });
    expect(outcome.stderr).toContain('cannot load the native addon /nonexistent/weft.node');
    expect(outcome.stderr).toContain('npm run build:native');
  });
});
