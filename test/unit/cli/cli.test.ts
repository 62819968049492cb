// The command against a real status server, and against what else may listen there.
import { chmod, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { RequestListener } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { duration, table } from '#agent/cli/text.ts';
import { grouped } from '#agent/observe/counts.ts';
import { weft } from '#agent/cli/weft.ts';
import { createMetrics } from '#agent/observe/metrics.ts';
import { statusServer } from '#agent/observe/server.ts';
import type { StatusSources } from '#agent/observe/status.ts';
import type { PeerView } from '#agent/runtime/ipam.ts';
import { peer, sources, view } from '../observe/fixture.ts';

interface Ran {
  readonly code: number | undefined;
  readonly out: string;
  readonly err: string;
}

async function run(argv: readonly string[], env: Readonly<Record<string, string>> = {}): Promise<Ran> {
  let out = '';
  let err = '';
  const code = await weft(argv, env, { out: (text) => (out += text), err: (text) => (err += text) });
  return { code, out, err };
}

/** Runs one command against an agent in the given state. */
async function ask(argv: readonly string[], changes: Partial<StatusSources> = {}): Promise<Ran> {
  const given = sources(changes);
  const server = statusServer({
    metricsListen: 'off',
    statusListen: '127.0.0.1:6785',
    sources: given,
    metrics: createMetrics(given),
  });
  await server.listen({ port: 0, host: '127.0.0.1' });
  const { port } = server.server.address() as AddressInfo;
  const ran = await run([...argv, '--address', `127.0.0.1:${port}`]);
  await server.close();
  return ran;
}

async function askOther(listener: RequestListener): Promise<Ran> {
  const server = createServer(listener).listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  const ran = await run(['status', `--address=127.0.0.1:${port}`]);
  server.closeAllConnections();
  await new Promise((resolve) => server.close(resolve));
  return ran;
}

describe('reports', () => {
  it('status tells the node in a dozen lines', async () => {
    const { code, out, err } = await ask(['status']);
    expect([code, err]).toEqual([0, '']);
    expect(out).toBe(
      [
        'Node        host1 (weft 9.9.9, up 60 s)',
        'Ready       yes',
        'Registry    peers, answered 2 s ago',
        'Range       10.32.0.0/12',
        'Own blocks  10.32.0.0/13 (50 % of the range)',
        'Addresses   524 284 free, 2 leased, 1 resting',
        'Overlay     weft0 10.32.0.1, MTU 1450, 2 of 2 peers programmed',
        'Pods        2',
        'Findings    none',
        '',
      ].join('\n'),
    );
  });

  it('status works while nothing is there yet, and shows findings with the next step', async () => {
    const nothing = {
      ipam: () => undefined,
      datapath: () => undefined,
      leases: () => [],
      starting: () => 'the registry',
    };
    const { code, out } = await ask(['status'], { ...nothing, startedAtMs: 0 });
    expect(code).toBe(0);
    expect(out).toContain('Ready       no: waiting for the registry');
    expect(out).toMatch(/error notReady: Pods cannot start here.*\n {4}Look at/);
  });

  it('peers', async () => {
    const { out } = await ask(['peers']);
    expect(out.split('\n').slice(0, 3)).toEqual([
      'NODE               UNDERLAY   OVERLAY    BLOCKS  VIA  ROUND TRIP  LOSS  PATH MTU  RECORD',
      'host1 (this node)  192.0.2.1  10.32.0.1  1       -    -           -     -         host1.00000001',
      'host2              192.0.2.2  10.32.0.2  1       -    -           -     -         host2.00000002',
    ]);
  });

  it('peers, of which one is not routed to yet', async () => {
    const isProgrammed = ({ nodeName }: PeerView): boolean => nodeName !== 'host3';
    const { out } = await ask(['peers'], { isProgrammed });
    expect(out).toMatch(/\nhost2 .* 1 +- /);
    expect(out).toMatch(/\nhost3 .* 1 +not yet /);
    expect((await ask(['status'], { isProgrammed })).out).toContain(' 1 of 2 peers programmed');
  });

  it('ipam, a node with several blocks and one with none', async () => {
    const peers = [peer(1, ['10.32.0.0/13', '10.40.0.0/14']), peer(2, [])];
    const { out } = await ask(['ipam'], { ipam: () => ({ ...view, peers }) });
    expect(out).toContain('Range     10.32.0.0/12\nReserved  none\n');
    expect(out).toMatch(/\nADDRESS +POD +CONTAINER +SINCE\n[\d.]+ +\S+ +\S+\/eth0 +\d+ \S+\n/);
    expect(out).toContain(
      'host1 (this node)  10.32.0.0/13  786 432    75 %\n                   10.40.0.0/14\nhost2              none          0          0 %\n',
    );
  });

  it('ipam, a node that is gone and one whose space is being taken over', async () => {
    const gone = { ...peer(2, ['10.40.0.0/14']), gone: true as const };
    const peers = [peer(1, ['10.32.0.0/13']), gone, { ...peer(3, ['10.44.0.0/14']), heir: 'host1.00000001' }];
    const { out } = await ask(['ipam'], { ipam: () => ({ ...view, peers }) });
    expect(out).toMatch(/\nhost2 \(gone\) +10\.40\.0\.0\/14/);
    expect(out).toMatch(/\nhost3 \(gone, host1\.00000001 takes over\) +10\.44\.0\.0\/14/);
  });

  it.each(['status', 'peers', 'ipam'])('%s --json is JSON', async (command) => {
    const { out } = await ask([command, '--json']);
    expect(JSON.stringify(JSON.parse(out))).toContain('10.44.0.0/14');
  });
});

describe('the agent is away', () => {
  it('says so, with the next step, and exits 1', async () => {
    const { code, out, err } = await run(['status', '--address', '127.0.0.1:1']);
    expect([code, out]).toEqual([1, '']);
    expect(err).toMatch(
      /^weft: the weft agent does not answer on 127\.0\.0\.1:1: nothing listens there\n {6}Check that the weft agent runs/,
    );
  });

  it('asks where the settings put the agent, and knows when they switch it off', async () => {
    const { err } = await run(['peers'], { WEFT_STATUS_LISTEN: '127.0.0.1:2' });
    expect(err).toContain('does not answer on 127.0.0.1:2');
    expect(await run(['peers'], { WEFT_STATUS_LISTEN: 'off' })).toMatchObject({
      code: 2,
      err: expect.stringMatching(/switched off/),
    });
    expect((await run(['peers'], { WEFT_TYPO: '1' })).err).toContain('127.0.0.1:6785');
  });

  const others: readonly (readonly [string, RequestListener, RegExp])[] = [
    ['speaks no JSON', (_, answer) => answer.end('hello'), /no JSON; does another program/],
    ['speaks other JSON', (_, answer) => answer.end('[]'), /not an agent’s/],
    ['answers 500', (_, answer) => answer.writeHead(500).end(), /HTTP status 500/],
    ['hangs up', (_, answer) => answer.destroy(), /ECONNRESET/],
  ];
  it.each(others)('another program %s', async (_, listener, words) => {
    const { code, err } = await askOther(listener);
    expect(code).toBe(1);
    expect(err).toMatch(words);
  });
});

describe('usage', () => {
  it.each([['help'], ['--help'], []])('%s prints the help', async (...argv) => {
    expect((await run(argv)).out).toMatch(/^Usage: weft COMMAND/);
  });

  it('version', async () => {
    const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { version: string };
    expect((await run(['version'])).out).toBe(`${version}\n`);
  });

  it.each([
    [['statsu'], /unknown command "statsu"; did you mean status\?/],
    [['constructor'], /unknown command/],
    [['status', '--jsn'], /unknown option "--jsn"; did you mean --json\?/],
    [['status', '--address', 'nowhere'], /--address must be HOST:PORT/],
    [['status', '--address'], /--address must be HOST:PORT, not ""/],
    [['status', '--address='], /--address must be HOST:PORT/],
    [['install', '/a', '/b'], /usage: weft install/],
  ])('%j is refused with code 2', async (argv, words) => {
    const { code, err } = await run(argv);
    expect(code).toBe(2);
    expect(err).toMatch(words);
  });

  it(
    'agent --help lists the settings, and a bad setting ends with code 2 before anything starts',
    { timeout: 60_000 },
    async () => {
      expect((await run(['agent', '--help'])).out).toContain('--vxlan-port  (WEFT_VXLAN_PORT)');
      const { code, err } = await run(['agent', '--vxlan-port', '0']);
      expect(code).toBe(2);
      expect(err).toMatch(/^weft: vxlanPort: 0 \(flag --vxlan-port\) is not allowed/);
    },
  );
});

describe('install', () => {
  let directory = '';
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'weft-install-'));
  });
  afterEach(async () => {
    await rm(directory, { recursive: true });
  });

  it('replaces the plugin by rename and leaves nothing else', async () => {
    const shim = join(directory, 'shim');
    const bin = join(directory, 'opt/cni/bin');
    await writeFile(shim, 'one');
    expect(await run(['install', bin], { WEFT_SHIM: shim })).toMatchObject({ code: 0, out: `installed ${bin}/weft\n` });
    const first = await stat(join(bin, 'weft'));
    expect(first.mode & 0o777).toBe(0o755);
    await writeFile(shim, 'two');
    await chmod(join(bin, 'weft'), 0o500);
    await run(['install', bin], { WEFT_SHIM: shim });
    expect(await readFile(join(bin, 'weft'), 'utf8')).toBe('two');
    expect((await stat(join(bin, 'weft'))).ino).not.toBe(first.ino);
    expect(await readdir(bin)).toEqual(['weft']);
  });

  it('names both paths when it cannot', async () => {
    const { code, err } = await run(['install', join(directory, 'bin')], { WEFT_SHIM: join(directory, 'none') });
    expect(code).toBe(1);
    expect(err).toMatch(/cannot install .*none as .*bin\/weft: ENOENT/);
    expect(await readdir(join(directory, 'bin'))).toEqual([]);
  });
});

describe('text', () => {
  it('aligns, groups digits, and shortens durations', () => {
    expect(table(['A', 'B'], [['long', 'x']])).toBe('A     B\nlong  x\n');
    expect([grouped(7), grouped(1234), grouped(1_048_576)]).toEqual(['7', '1 234', '1 048 576']);
    expect([duration(-5), duration(89_000), duration(120_000), duration(7_200_000), duration(259_200_000)]).toEqual([
      '0 s',
      '89 s',
      '2 min',
      '2 h',
      '3 d',
    ]);
  });
});
