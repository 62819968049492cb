// `weft init` and `weft voters` on files of their own: what is written, with which modes, what a second run does, and that the
// agents' registry works with it.

import { mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { init } from '#agent/cli/init.ts';
import { peersRemove } from '#agent/cli/peers-remove.ts';
import { voters } from '#agent/cli/voters.ts';
import { loadConfig, type Config } from '#agent/config.ts';
import { openPeersRegistry } from '#agent/registry/peers/peers-registry.ts';
import { openVoterStore } from '#agent/registry/peers/store.ts';
import { mayWrite, type WriterRule } from '#agent/registry/peers/writers.ts';
import type { Registry } from '#agent/registry/registry.ts';
import { parseSession } from '#ipam-peer/session-record.ts';
import { freePorts } from '#test/support/peers-cluster.ts';
import { sampleValue } from '#test/support/registry-contract.ts';

const signal = new AbortController().signal;
const hosts = ['host1=127.0.0.1', 'host2=127.0.0.2', 'host3=127.0.0.3+::1'];
const none = Readable.from([]);
let directory: string;
const closing: (() => Promise<void>)[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-init-'));
});
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
  await rm(directory, { recursive: true, force: true });
});

const places = (name: string): readonly string[] => [
  '--config-dir',
  join(directory, name),
  '--state-dir',
  join(directory, name, 'state'),
];
const configPath = (name: string): string => join(directory, name, 'config.json');
const configOf = (name: string): Config => loadConfig({ argv: ['--config', configPath(name)], env: {} }).config;

/** Every host set up as the operator is told to. */
async function initAll(...more: readonly string[]): Promise<string> {
  const told = await init([...hosts, '--this', 'host1', ...more, ...places('host1')], none);
  for (const name of ['host2', 'host3']) {
    const file = await readFile(join(directory, 'host1/cluster', `${name}.json`), 'utf8');
    await init(['--from', '-', ...places(name)], Readable.from([file]));
  }
  return told;
}

async function filesBelow(folder: string): Promise<ReadonlyMap<string, string>> {
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const files = entries.filter((entry) => entry.isFile()).map((entry) => join(entry.parentPath, entry.name));
  return new Map(
    await Promise.all(files.map(async (path) => [path, (await readFile(path)).toString('base64')] as const)),
  );
}

/** The hosts' settings with a port that is free. */
async function withPort(names: readonly string[]): Promise<number> {
  const [port = 0] = await freePorts(1);
  for (const name of names) {
    const settings = JSON.parse(await readFile(configPath(name), 'utf8')) as object;
    await writeFile(configPath(name), JSON.stringify({ ...settings, peersPort: port }));
  }
  return port;
}

async function openAll(
  port: number,
  names: readonly string[],
  rule: WriterRule = () => undefined,
): Promise<readonly Registry[]> {
  return Promise.all(
    names.map(async (name) => {
      const { nodes, tlsCa, tlsCert, tlsKey, stateDir, voters: list } = configOf(name);
      const registry = await openPeersRegistry({
        self: name,
        voters: list.map((voter) => ({
          name: voter,
          address: nodes.find((node) => node.name === voter)?.addresses[0] ?? '',
          port,
        })),
        tls: { ca: tlsCa, cert: tlsCert, key: tlsKey },
        statePath: join(stateDir, 'voter.db'),
        log: { info: () => undefined, warn: () => undefined } as never,
        trustAfterMs: 300,
        rule,
      });
      closing.push(() => registry.close());
      return registry;
    }),
  );
}

describe('weft init', { timeout: 60_000 }, () => {
  it('sets up the first host and says what to run for each other one', async () => {
    const told = await init([...hosts, '--this', 'host1', '--ranges', '10.64.0.0/12', ...places('host1')], none);
    expect(told).toContain(`ssh root@127.0.0.2 weft init --from - < ${join(directory, 'host1/cluster/host2.json')}`);
    expect(told).toContain('ssh root@127.0.0.3');
    expect(told).not.toContain('ssh root@127.0.0.1 ');
    expect(configOf('host1')).toMatchObject({
      nodeName: 'host1',
      registry: 'peers',
      discovery: 'static',
      voters: ['host1', 'host2', 'host3'],
      ranges: ['10.64.0.0/12'],
    });
    for (const [path] of await filesBelow(directory))
      expect([path, (await stat(path)).mode & 0o077]).toEqual([path, 0]);
    for (const folder of ['host1/tls', 'host1/cluster', 'host1/state']) {
      expect((await stat(join(directory, folder))).mode & 0o077).toBe(0);
    }
    using store = openVoterStore(join(directory, 'host1/state/voter.db'));
    expect(store.membership().member).toBe(true);
  });

  it('gives hosts that agree among themselves', async () => {
    await initAll();
    const [port = 0] = await freePorts(1);
    const [one, two] = await openAll(port, ['host1', 'host2', 'host3']);
    await expect
      .poll(() => one?.create('peer', 'x', sampleValue('peer', 1), signal), { timeout: 20_000 })
      .toMatchObject({ kind: expect.stringMatching(/ok|conflict/) });
    expect((await two?.get('peer', 'x', signal))?.value).toEqual(sampleValue('peer', 1));
  });

  it('changes nothing the second time', async () => {
    await initAll();
    const before = await filesBelow(directory);
    const told = await initAll();
    expect(told).toContain('host1: nothing to change.');
    expect(await filesBelow(directory)).toEqual(before);
  });

  it('adds a host, keeps what an operator has set, and leaves the voters as they are', async () => {
    await initAll();
    const own = JSON.parse(await readFile(configPath('host1'), 'utf8')) as object;
    await writeFile(configPath('host1'), JSON.stringify({ ...own, mtuBytes: 1400 }));
    const told = await init(['host4=127.0.0.4', ...hosts, '--this', 'host1', ...places('host1')], none);
    expect(told).toContain('ssh root@127.0.0.4');
    expect(configOf('host1')).toMatchObject({ mtuBytes: 1400, voters: ['host1', 'host2', 'host3'] });
    expect(configOf('host1').nodes.map(({ name }) => name)).toEqual(['host1', 'host2', 'host3', 'host4']);
    const file = await readFile(join(directory, 'host1/cluster/host4.json'), 'utf8');
    await init(['--from', '-', ...places('host4')], Readable.from([file]));
    expect(configOf('host4').nodeName).toBe('host4');
    // It does not vote, so it has no disk of a voter.
    expect(await readdir(join(directory, 'host4'))).toEqual(['config.json', 'tls']);
  });

  it('makes the disk of a voter once: one that is gone was lost', async () => {
    await initAll();
    await rm(join(directory, 'host1/state'), { recursive: true });
    await initAll();
    await expect(stat(join(directory, 'host1/state/voter.db'))).rejects.toThrow('ENOENT');
  });

  it.for<readonly [string, readonly string[], RegExp]>([
    ['no host', [], /Usage: weft init/],
    ['a host without an address', ['host1'], /no NAME=ADDRESS/],
    ['a host twice', ['host1=127.0.0.1', 'host1=127.0.0.2', '--this', 'host1'], /host1 is named twice/],
    ['an unknown self', [...hosts, '--this', 'host9'], /host9 is not among the hosts/],
    ['an unknown option', [...hosts, '--voter', 'host1'], /unknown option --voter/],
    ['hosts beside a file', ['host1=127.0.0.1', '--from', 'x'], /takes no hosts/],
  ])('refuses %s', async ([, argv, message]) => {
    await expect(init([...argv, ...places('host1')], none)).rejects.toThrow(message);
    expect(await readdir(directory)).toEqual([]);
  });

  it.for<readonly [string, readonly string[], RegExp]>([
    ['an address that is none', ['host1=127.0.0.300', '--this', 'host1'], /nodes.*127\.0\.0\.300/],
    ['two voters', [...hosts, '--this', 'host1', '--voters', 'host1,host2'], /voters.*1, 3, 5 or 7/],
    ['a range that is none', [...hosts, '--this', 'host1', '--ranges', '10.0.0.0/40'], /ranges/],
  ])('refuses %s in the words of the settings, before anything is in place', async ([, argv, message]) => {
    await expect(init([...argv, ...places('host1')], none)).rejects.toThrow(message);
    await expect(stat(configPath('host1'))).rejects.toThrow('ENOENT');
  });

  it('refuses the file of another host or other hosts, and what is no such file', async () => {
    await initAll();
    const second = await readFile(join(directory, 'host1/cluster/host2.json'), 'utf8');
    await expect(init(['--from', '-', ...places('host1')], Readable.from([second]))).rejects.toThrow(
      /this host is host1.*for host2/,
    );
    await init([...hosts, '--this', 'host1', ...places('elsewhere')], none);
    const foreign = await readFile(join(directory, 'elsewhere/cluster/host2.json'), 'utf8');
    await expect(init(['--from', '-', ...places('host2')], Readable.from([foreign]))).rejects.toThrow(/other hosts/);
    await expect(init(['--from', '-', ...places('host2')], Readable.from(['{}']))).rejects.toThrow(/not a file that/);
    await expect(init(['--from', '-', ...places('host2')], Readable.from(['x']))).rejects.toThrow(/no JSON/);
  });
});

describe('weft peers remove', { timeout: 60_000 }, () => {
  it('says in the session of a node that it will not come back, once', async () => {
    await initAll();
    const port = await withPort(['host1', 'host2', 'host3']);
    const [, , three] = await openAll(port, ['host1', 'host2', 'host3'], mayWrite);
    const record = 'host3.1a2b3c4d';
    const node = { name: 'host3', uid: '1a2b3c4d-0000-4000-8000-000000000003' };
    for (const [kind, value] of [
      ['peer', { ...sampleValue('peer', 1), node }],
      ['session', sampleValue('session', 1)],
    ] as const) {
      await expect
        .poll(() => three?.create(kind, record, value, signal), { timeout: 20_000 })
        .toMatchObject({ kind: expect.stringMatching(/ok|conflict/) });
    }
    const config = ['--config', configPath('host1')];
    expect(await peersRemove(['host3', ...config])).toMatch(/host3\.1a2b3c4d is removed[^]*weft voters replace/);
    expect((await three?.get('session', record, signal))?.value).toEqual({
      ...sampleValue('session', 1),
      removed: true,
    });
    expect((await three?.get('peer', record, signal))?.value).toMatchObject({ node, seq: 2, removed: true });
    expect(await peersRemove([record, ...config])).toContain('was removed before');
    expect((await three?.get('peer', record, signal))?.value).toMatchObject({ seq: 2 });
    await expect(peersRemove(['host9', ...config])).rejects.toThrow('records: host3.1a2b3c4d');
    await expect(peersRemove(['host3', '--config', configPath('host3')])).rejects.toThrow('host3 is this host');
    await expect(peersRemove(config)).rejects.toThrow('Usage: weft peers remove');
  });
});

describe('weft peers remove of a node whose session is lost', { timeout: 60_000 }, () => {
  it('writes one that says so', async () => {
    await initAll();
    const port = await withPort(['host1', 'host2', 'host3']);
    const [, , three] = await openAll(port, ['host1', 'host2', 'host3'], mayWrite);
    const record = 'host3.1a2b3c4d';
    const node = { name: 'host3', uid: '1a2b3c4d-0000-4000-8000-000000000003' };
    await expect
      .poll(() => three?.create('peer', record, { ...sampleValue('peer', 1), node }, signal), { timeout: 20_000 })
      .toMatchObject({ kind: expect.stringMatching(/ok|conflict/) });
    const config = ['--config', configPath('host1')];
    expect(await peersRemove(['host3', ...config])).toContain('host3.1a2b3c4d is removed');
    expect(parseSession((await three?.get('session', record, signal))?.value)).toMatchObject({
      ok: true,
      record: { removed: true },
    });
    expect(await peersRemove(['host3', ...config])).toContain('was removed before');
  });
});

describe('weft voters', { timeout: 60_000 }, () => {
  it('lists who votes and who is silent', async () => {
    await initAll();
    const port = await withPort(['host1', 'host2', 'host3']);
    await openAll(port, ['host1', 'host2']);
    await expect
      .poll(() => voters(['--config', configPath('host1')]), { timeout: 20_000 })
      .toMatch(
        /host1 +127\.0\.0\.1 +votes[^]*host2 +127\.0\.0\.2 +votes[^]*host3 +127\.0\.0\.3 +silent[^]*2 of 3 vote; 0 more may fail/,
      );
  });

  it('replaces a voter in the settings, once', async () => {
    await initAll();
    await init(['host4=127.0.0.4', ...hosts, '--this', 'host1', ...places('host1')], none);
    const config = ['--config', configPath('host1')];
    expect(await voters(['replace', 'host3', 'host4', ...config])).toContain(
      'Restart the agent on every host, host4 last',
    );
    expect(configOf('host1').voters).toEqual(['host1', 'host2', 'host4']);
    expect(await voters(['replace', 'host3', 'host4', ...config])).toContain('nothing to change');
    await expect(voters(['replace', 'host3', 'host9', ...config])).rejects.toThrow('host3 does not vote');
    await expect(voters(['replace', 'host1', 'host2', ...config])).rejects.toThrow('host2 votes already');
    await expect(voters(['replace', 'host1', 'host9', ...config])).rejects.toThrow('not among the hosts');
    await expect(voters(['remove', ...config])).rejects.toThrow('Usage: weft voters');
  });

  it('restores a lost majority from the disk that is left', async () => {
    await initAll();
    const port = await withPort(['host1', 'host2', 'host3']);
    // Two of three: what they agree on is on both disks, so on that of host1.
    const before = await openAll(port, ['host1', 'host2']);
    await expect
      .poll(() => before[0]?.create('peer', 'kept', sampleValue('peer', 7), signal), { timeout: 20_000 })
      .toMatchObject({ kind: expect.stringMatching(/ok|conflict/) });
    for (const close of closing.splice(0)) await close();
    for (const name of ['host2', 'host3']) await rm(join(directory, name, 'state/voter.db'));
    const left = join(directory, 'host1/state/voter.db');
    const copy = join(directory, 'left.db');
    await writeFile(copy, await readFile(left));
    for (const name of ['host1', 'host2', 'host3']) {
      const told = await voters(['restore', copy, '--config', configPath(name)]);
      expect(told).toMatch(name === 'host1' ? /has 1 records.*before-restore/ : /has 1 records/);
    }
    const after = await openAll(port, ['host1', 'host2', 'host3']);
    await expect
      .poll(async () => (await after[2]?.get('peer', 'kept', signal))?.value, { timeout: 20_000 })
      .toEqual(sampleValue('peer', 7));
    await expect(voters(['restore', left, '--config', configPath('host1')])).rejects.toThrow(/locked/);
    await expect(voters(['restore', join(directory, 'nowhere'), '--config', configPath('host1')])).rejects.toThrow(
      /no voter's disk/,
    );
  });

  it('begins anew with an empty disk where that is asked for', async () => {
    await init(['host1=127.0.0.1', '--this', 'host1', ...places('host1')], none);
    const port = await withPort(['host1']);
    const path = join(directory, 'host1/state/voter.db');
    await rm(path);
    await expect(openAll(port, ['host1'])).rejects.toThrow('only voter');
    await rm(path);
    expect(await voters(['restore', 'empty', '--config', configPath('host1')])).toContain('has 0 records');
    const [one] = await openAll(port, ['host1']);
    expect(await one?.list('peer', signal)).toEqual([]);
  });
});
