// The lab as a person runs it: full matrix, the page answers, and nothing is left however it ends. Needs root; about half a minute.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';

import { parseCidr, sizeOf } from '#ipam-peer/cidr.ts';
import { run } from '#test/support/netns.ts';

interface Ended {
  readonly code: number | null;
  readonly out: string;
  readonly err: string;
}

interface LabRun {
  readonly child: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Resolves when the output (both streams) holds the text; fails with all output when the lab ends before. */
  says(text: string): Promise<void>;
}

const folders = ['/etc/weft', '/etc/cni/net.d', '/opt/cni/bin', '/var/lib/weft', '/run/weft'];
let directory = '';
let before: unknown;

const lab = (...args: readonly string[]): LabRun => labUnder([], ...args);
/** Its agents from the sources, as a person's lab has them; the others start this run's bundles. */
const labOfSources = (...args: readonly string[]): LabRun => labUnder(['env', '-u', 'TEST_PROGRAMS'], ...args);

/** Started by another program. */
function labUnder(program: readonly string[], ...args: readonly string[]): LabRun {
  const node = [process.execPath, '--disable-warning=ExperimentalWarning', 'test/lab/main.ts'];
  const [first = '', ...rest] = [...program, ...node, ...args];
  const child = spawn(first, rest, {
    // A setting for an agent of the person who runs the lab.
    env: { ...process.env, LAB_OF_WEFT_DIR: join(directory, 'lab'), WEFT_NODE_NAME: 'mine' },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const seen = { out: '', err: '' };
  const watchers = new Set<() => void>();
  child.stdout
    .setEncoding('utf8')
    .on('data', (chunk: string) => ((seen.out += chunk), watchers.forEach((look) => look())));
  child.stderr
    .setEncoding('utf8')
    .on('data', (chunk: string) => ((seen.err += chunk), watchers.forEach((look) => look())));
  const ended = new Promise<Ended>((resolve) => child.on('close', (code) => resolve({ code, ...seen })));
  const says = async (text: string): Promise<void> =>
    new Promise((resolve, reject) => {
      const look = (): void => {
        if (seen.out.includes(text) || seen.err.includes(text)) resolve();
      };
      watchers.add(look);
      look();
      void ended.then(() => reject(new Error(`the lab ended without "${text}":\n${seen.out}\n${seen.err}`)));
    });
  return { child, ended, says };
}

/** What a lab could leave: namespaces, mounts, links, folders, marked processes. */
function traces(): unknown {
  return {
    netns: existsSync('/run/netns') ? readdirSync('/run/netns').toSorted() : [],
    mounts: readFileSync('/proc/self/mounts', 'utf8')
      .split('\n')
      .map((line) => line.split(' ')[1] ?? '')
      // Builds of images on this machine come and go beside the test.
      .filter((path) => !path.startsWith('/var/cache/weft/')),
    // Not /sys, which still shows the machine's.
    links: readFileSync('/proc/net/dev', 'utf8').match(/\S+(?=:)/g),
    folders: folders.filter((folder) => existsSync(folder)),
    lab: existsSync(join(directory, 'lab')),
    processes: markedProcesses(),
  };
}

function markedProcesses(): readonly string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .flatMap((pid) => {
      try {
        return readFileSync(`/proc/${pid}/environ`, 'latin1').includes('\0LAB_OF_WEFT=') ? [pid] : [];
      } catch {
        return [];
      }
    });
}

/** The lab's process whose command line holds this. */
function pidOf(words: string): number {
  const pid = markedProcesses().find((each) => readFileSync(`/proc/${each}/cmdline`, 'latin1').includes(words));
  return Number(pid ?? expect.unreachable(`no process with ${JSON.stringify(words)}`));
}

/** Every host has a part of the range, and every address of it one host. Which part is whose depends on who asks first. */
function expectWholeSplit(out: string): void {
  const rows = [...out.matchAll(/^host\d +([\d./, ]+\/\d+) .*%$/gm)];
  expect(rows, out).toHaveLength(3);
  const cidrs = rows.flatMap(([, blocks = '']) => blocks.split(', '));
  const blocks = cidrs.map((text) => parseCidr(text) ?? expect.unreachable(`${text} is no block`));
  const range = parseCidr('10.32.0.0/12') ?? expect.unreachable();
  let next = range.base;
  for (const block of blocks.toSorted((a, b) => (a.base < b.base ? -1 : 1))) {
    expect(block.base, `nothing between the parts, nothing twice: ${cidrs.join(' ')}`).toBe(next);
    next += sizeOf(block);
  }
  expect(next, cidrs.join(' ')).toBe(range.base + sizeOf(range));
}

beforeEach(async () => {
  expect(process.getuid?.(), 'these tests need root').toBe(0);
  directory = await mkdtemp(join(tmpdir(), 'weft-lab-test-'));
  before = traces();
});

afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

describe('npm start', { timeout: 120_000 }, () => {
  it('--once: every pod reaches every other, the range is split, every address is freed, nothing stays', async () => {
    const { code, out, err } = await lab('--once').ended;
    expect(err).not.toContain('cleaning up');
    expect([code, err.split('\n').filter((line) => !line.startsWith('weft lab: ['))]).toEqual([0, ['']]);
    expect(out).not.toContain('FAILED');
    expect(out.match(/^pod\d \(host\d\) /gm)).toHaveLength(6);
    expect(out.match(/[\d.]+ \/ [\d.]+/g)).toHaveLength(30);
    expectWholeSplit(out);
    expect(out).toContain('every address is free again');
    expect(traces()).toEqual(before);
  });

  it('stays up until Ctrl-C: the status page answers, a second lab is refused, a killed agent comes back, nothing stays', async () => {
    const first = labOfSources('--nodes', '1', '--pods', '2');
    await first.says('Ctrl-C removes every trace.');
    const page = await fetch('http://127.0.0.1:16785/');
    expect(await page.text()).toContain('<h1 id="node">');
    const status = (await (await fetch('http://127.0.0.1:16785/api/status')).json()) as Record<string, unknown>;
    expect(status).toMatchObject({ nodeName: 'host1', ready: true, leasesTotal: 2, findings: [] });
    const second = await lab('--once').ended;
    expect([second.code, second.err]).toEqual([1, expect.stringContaining('a lab is running already')]);
    expect(markedProcesses().length).toBeGreaterThan(0);
    process.kill(pidOf('agent/cli/weft.ts\0agent\0'), 'SIGKILL');
    await first.says('the agent on host1 ended (exit SIGKILL), started again');
    await vi.waitFor(
      async () => {
        const again = await fetch('http://127.0.0.1:16785/api/status');
        expect(await again.json()).toMatchObject({ nodeName: 'host1', ready: true, leasesTotal: 2, findings: [] });
      },
      { timeout: 20_000 },
    );
    first.child.kill('SIGINT');
    expect((await first.ended).code).toBe(0);
    expect(traces()).toEqual(before);
  });

  it.each(['[1/', '[3/'])(
    'killed with -9 at step %s: the next start removes what was left, and works',
    async (step) => {
      const killed = lab('--nodes', '2');
      await killed.says(step);
      killed.child.kill('SIGKILL');
      await killed.ended;
      expect(traces()).not.toEqual(before);
      const next = await lab('--once', '--nodes', '1', '--pods', '2').ended;
      expect([next.code, next.err]).toEqual([0, expect.stringContaining('of a lab that was killed')]);
      expect(traces()).toEqual(before);
    },
  );

  it('killed with -9 at step [2/, where nobody reaps it: the same', async () => {
    const killed = labUnder(['sh', '-c', '"$@" & exec sleep 60', 'sh'], '--nodes', '1');
    await killed.says('[2/');
    const { pid } = JSON.parse(readFileSync(join(directory, 'lab/state.json'), 'utf8')) as { readonly pid: number };
    process.kill(pid, 'SIGKILL');
    const next = await lab('--once', '--nodes', '1', '--pods', '1').ended;
    expect([next.code, next.err]).toEqual([0, expect.stringContaining('of a lab that was killed')]);
    killed.child.kill('SIGKILL');
    await killed.ended;
    expect(traces()).toEqual(before);
  });

  it('Ctrl-C half-way leaves nothing and is no success', async () => {
    const started = lab('--nodes', '2');
    await started.says('[3/');
    started.child.kill('SIGINT');
    expect((await started.ended).code).toBe(130);
    expect(traces()).toEqual(before);
  });

  it('two at the same moment: one works, the other says why not', async () => {
    const runs = ['1', '2'].map(() => lab('--once', '--nodes', '1', '--pods', '1'));
    const ends = await Promise.all(runs.map(({ ended }) => ended));
    expect(
      ends.map(({ code }) => code).toSorted((a, b) => Number(a) - Number(b)),
      ends.map(({ err }) => err).join('\n'),
    ).toEqual([0, 1]);
    expect(ends.find(({ code }) => code === 1)?.err).toMatch(/a lab is (?:running|starting or ending) already/);
    expect(traces()).toEqual(before);
  });

  it('nobody reads any more, and SIGHUP (a terminal that is closed): nothing stays', async () => {
    const started = lab('--nodes', '1', '--pods', '1');
    await started.says('[3/');
    started.child.stdout?.destroy();
    started.child.stderr?.destroy();
    started.child.kill('SIGHUP');
    expect((await started.ended).code).toBe(130);
    expect(traces()).toEqual(before);
  });

  it('whoever reads goes away at the first line (`| head`): the exit code is the pods’ all the same', async () => {
    const started = lab('--once', '--nodes', '1', '--pods', '2');
    await started.says('[1/');
    started.child.stdout?.destroy();
    started.child.stderr?.destroy();
    expect((await started.ended).code).toBe(0);
    expect(traces()).toEqual(before);
  });

  it('a pod that hangs: Ctrl-C works meanwhile; left alone, the lab says which and exits 1', async () => {
    const hanging = async (): Promise<LabRun> => {
      const started = lab('--once', '--nodes', '1', '--pods', '2');
      await started.says('[4/');
      process.kill(pidOf('pod-main.ts\0pod2\0'), 'SIGSTOP');
      await started.says('[5/');
      return started;
    };
    const left = await (await hanging()).ended;
    expect([left.code, left.out]).toEqual([1, expect.stringMatching(/ping pod2 -> pod1 .*: pod2 hangs/)]);
    const interrupted = await hanging();
    const start = performance.now();
    interrupted.child.kill('SIGINT');
    expect((await interrupted.ended).code).toBe(130);
    expect(performance.now() - start).toBeLessThan(7000);
    expect(traces()).toEqual(before);
  });

  it('no room for its state: says where, and leaves no folder', async () => {
    await run(['mount', '-t', 'tmpfs', '-o', 'nr_inodes=2', 'tmpfs', directory]);
    try {
      const { code, err } = await lab('--once').ended;
      expect([code, err]).toEqual([1, expect.stringContaining(`cannot write to ${join(directory, 'lab')}: ENOSPC`)]);
      expect(existsSync(join(directory, 'lab'))).toBe(false);
    } finally {
      await run(['umount', directory]);
    }
  });

  it.each(['sys_admin', 'net_admin'])('a root without %s, as in a container: in plain words', async (capability) => {
    const { code, err } = await labUnder(['setpriv', '--bounding-set', `-${capability}`], '--once').ended;
    expect([code, err]).toEqual([1, expect.stringContaining('this root may not make network namespaces')]);
    expect(traces()).toEqual(before);
  });
});
