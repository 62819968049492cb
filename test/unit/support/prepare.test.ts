// The preparation of a bare machine, with an npm that only says what it was asked and takes its time. Real processes and signals.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

// It brings a Node that is this one, once the test lets it.
const npm = `#!/bin/sh
echo "begin $*" >> said
while [ ! -e go ]; do sleep 0.02; done
mkdir -p node_modules/node/bin
ln -sf ${process.execPath} node_modules/node/bin/node
echo end >> said
`;

let folder = '';
const started: ChildProcess[] = [];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'weft prepare-'));
  mkdirSync(join(folder, 'test/support'), { recursive: true });
  mkdirSync(join(folder, 'bin'));
  copyFileSync('test/support/prepare.mjs', join(folder, 'test/support/prepare.mjs'));
  writeFileSync(join(folder, 'package-lock.json'), '{}');
  writeFileSync(join(folder, 'bin/npm'), npm, { mode: 0o755 });
});

afterEach(() => {
  writeFileSync(join(folder, 'go'), '');
  for (const child of started.splice(0)) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

interface Preparation {
  readonly child: ChildProcess;
  readonly code: Promise<number | null>;
  readonly err: () => string;
}

function prepare(env: NodeJS.ProcessEnv = {}, stage = 'check'): Preparation {
  const child = spawn(process.execPath, [join(folder, 'test/support/prepare.mjs'), stage], {
    env: { ...process.env, PATH: `${join(folder, 'bin')}:${process.env['PATH']}`, ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  started.push(child);
  let err = '';
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (err += chunk));
  return { child, code: new Promise((resolve) => child.on('close', resolve)), err: () => err };
}

const said = (): readonly string[] => {
  const path = join(folder, 'said');
  return existsSync(path) ? readFileSync(path, 'utf8').trimEnd().split('\n') : [];
};

it('killed with -9 while npm works: the next one waits for that npm, and installs after it', async () => {
  const killed = prepare();
  await vi.waitFor(() => expect(said()).toHaveLength(1), { timeout: 10_000 });
  killed.child.kill('SIGKILL');
  const next = prepare();
  await vi.waitFor(() => expect(next.err()).toContain('another preparation is under way'), { timeout: 10_000 });
  expect(said()).toHaveLength(1);
  writeFileSync(join(folder, 'go'), '');
  expect(await next.code, next.err()).toBe(0);
  expect(said().map((line) => line.split(' ')[0])).toEqual(['begin', 'end', 'begin', 'end']);
});

it('two at once: one installs, the other finds it done', async () => {
  const both = [prepare(), prepare()];
  await vi.waitFor(() => expect(both.map(({ err }) => err()).join('')).toContain('another preparation is under way'), {
    timeout: 10_000,
  });
  writeFileSync(join(folder, 'go'), '');
  expect(await Promise.all(both.map(({ code }) => code))).toEqual([0, 0]);
  expect(said()).toHaveLength(2);
});

it('neither NODE_ENV=production nor an old Node under npm leaves out the tools', async () => {
  writeFileSync(join(folder, 'go'), '');
  const { code, err } = prepare({ NODE_ENV: 'production' });
  expect(await code, err()).toBe(0);
  expect(said()[0]).toContain('ci --include=dev --engine-strict=false');
});

it('once everything is there, npm is not asked and nothing is written: a read-only folder will do', async () => {
  writeFileSync(join(folder, 'go'), '');
  expect(await prepare().code).toBe(0);
  const written = (): unknown => ['.', 'node_modules', 'said'].map((name) => statSync(join(folder, name)).mtimeMs);
  const before = written();
  const { code, err } = prepare();
  expect([await code, err()]).toEqual([0, '']);
  expect(written()).toEqual(before);
});

describe('Debian packages', () => {
  const program = (path: string, text: string): void =>
    writeFileSync(join(folder, path), `#!/bin/sh\n${text}`, { mode: 0o755 });

  beforeEach(() => {
    writeFileSync(join(folder, 'go'), '');
    program('bin/dpkg-query', 'exit 1');
    for (const part of ['agent/native', 'cni-shim']) {
      mkdirSync(join(folder, part), { recursive: true });
      writeFileSync(join(folder, part, 'build.ts'), '');
    }
  });

  it('a broken source of somebody else’s fails the update, and nothing else', async () => {
    program('bin/apt-get', '[ "$1" = install ] && echo "$*" >>said || { echo "E: not signed" >&2; exit 100; }');
    const { code, err } = prepare({}, 'native');
    expect(await code, err()).toBe(0);
    expect(said().at(-1)).toMatch(/^install .*gcc libc6-dev musl-tools$/);
  });

  it('no network: what the update said is shown with the packages that the install does not know', async () => {
    program(
      'bin/apt-get',
      '[ "$1" = update ] && echo "W: Could not resolve host" >&2 || { echo "E: Unable to locate package gcc" >&2; exit 100; }',
    );
    const { code, err } = prepare({}, 'native');
    expect(await code).toBe(1);
    expect(err()).toMatch(/apt-get install failed[^]*Could not resolve host[^]*Unable to locate package gcc/);
  });
});
