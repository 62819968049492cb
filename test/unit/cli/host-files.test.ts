// What `weft init` and `weft voters restore` do with files that are half written, someone else's, or in use.

import { createPrivateKey, createPublicKey } from 'node:crypto';
import { copyFile, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { Readable } from 'node:stream';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { init } from '#agent/cli/init.ts';
import { voters } from '#agent/cli/voters.ts';
import { certificateProblem } from '#agent/registry/peers/keys.ts';
import { openVoterStore } from '#agent/registry/peers/store.ts';
import { issueCertificate } from '#agent/registry/peers/x509.ts';
import { openStore } from '#agent/runtime/store.ts';

const hosts = ['host1=127.0.0.1', 'host2=127.0.0.2', 'host3=127.0.0.3'];
const none = Readable.from([]);
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-files-'));
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

const places = (name: string): readonly string[] => [
  '--config-dir',
  join(directory, name),
  '--state-dir',
  join(directory, name, 'state'),
];
const first = async (...more: readonly string[]): Promise<string> =>
  await init([...hosts, '--this', 'host1', ...more, ...places('host1')], none);
const fileOf = async (name: string): Promise<Record<string, unknown>> =>
  JSON.parse(await readFile(join(directory, 'host1/cluster', `${name}.json`), 'utf8')) as Record<string, unknown>;
const from = async (name: string, file: object): Promise<string> =>
  await init(['--from', '-', ...places(name)], Readable.from([JSON.stringify(file)]));
const restore = async (...files: readonly string[]): Promise<string> =>
  await voters(['restore', ...files, '--config', join(directory, 'host1/config.json')]);

describe('weft init', { timeout: 60_000 }, () => {
  it.each(['host2/node.pem', 'host2/node-key.pem'])('makes %s anew where a crash left it empty', async (name) => {
    await first();
    await writeFile(join(directory, 'host1/cluster', name), '');
    await first();
    const file = (await fileOf('host2')) as { name: string; ca: string; cert: string; key: string };
    expect(certificateProblem(file)).toBe('');
    expect(await from('host2', file)).toContain('host2: wrote');
  });

  it('leaves nothing behind that looks like a key but is none', async () => {
    await first();
    const names = await readdir(join(directory, 'host1'), { recursive: true });
    expect(names.filter((name) => /\.pem\./.test(name))).toEqual([]);
  });

  it.each<readonly [string, (file: Record<string, unknown>, other: Record<string, unknown>) => object, RegExp]>([
    ['another host’s certificate', (file, other) => ({ ...file, cert: other['cert'] }), /the certificate is of host3/],
    ['another host’s key', (file, other) => ({ ...file, key: other['key'] }), /do not belong together/],
    ['another host’s settings', (file, other) => ({ ...file, settings: other['settings'] }), /the settings of host3/],
    ['half a certificate', (file) => ({ ...file, cert: String(file['cert']).slice(0, 200) }), /is damaged/],
  ])('refuses a file with %s, and puts nothing in place', async (_, spoil, why) => {
    await first();
    const [file, other] = [await fileOf('host2'), await fileOf('host3')];
    await expect(from('host2', spoil(file, other))).rejects.toThrow(why);
    expect(await readdir(directory)).toEqual(['host1']);
  });

  it('takes new certificates of the same authority, in the place of those that end', async () => {
    await first();
    const old = await fileOf('host2');
    await from('host2', old);
    const [ca, key] = ['ca.pem', 'ca-key.pem'].map((name) => join(directory, 'host1/cluster', name)) as [
      string,
      string,
    ];
    const privateKey = createPrivateKey(await readFile(key, 'utf8'));
    const [notBefore, notAfter] = [new Date(Date.now() - 1e9), new Date(Date.now() + 1e9)];
    const request = {
      commonName: 'weft peers',
      publicKey: createPublicKey(privateKey),
      notBefore,
      notAfter,
      names: undefined,
    };
    await writeFile(ca, issueCertificate(request, { commonName: 'weft peers', privateKey }));
    expect(await first()).toContain('host1: wrote');
    const renewed = await fileOf('host2');
    expect(renewed['ca']).not.toBe(old['ca']);
    expect(await from('host2', renewed)).toContain('tls/ca.pem');
    expect(await from('host2', renewed)).toContain('nothing to change');
  });

  it('refuses a certificate of another authority', async () => {
    await first();
    await init([...hosts, '--this', 'host1', ...places('elsewhere')], none);
    const foreign = JSON.parse(await readFile(join(directory, 'elsewhere/cluster/host2.json'), 'utf8')) as object;
    const { ca } = await fileOf('host2');
    await expect(from('host2', { ...foreign, ca })).rejects.toThrow('not signed by the authority');
  });

  it('keeps an older file from bringing back a voter that was replaced', async () => {
    await first();
    await init([...hosts, 'host4=127.0.0.4', '--this', 'host1', ...places('host1')], none);
    const old = await fileOf('host2');
    await from('host2', old);
    await voters(['replace', 'host3', 'host4', '--config', join(directory, 'host2/config.json')]);
    await expect(from('host2', old)).rejects.toThrow(
      /has the voters host1, host2, host4, the file has host1, host2, host3/,
    );
  });

  it('refuses on every host settings that are not these hosts’', async () => {
    await first();
    const file = await fileOf('host2');
    await from('host2', file);
    await writeFile(join(directory, 'host2/config.json'), '{"registry":');
    await expect(from('host2', file)).rejects.toThrow(/config\.json is no JSON/);
    await writeFile(join(directory, 'host2/config.json'), '{"registry":"kubernetes"}');
    await expect(from('host2', file)).rejects.toThrow(/does not say registry "peers"/);
  });

  it.each<readonly [string, readonly string[], RegExp]>([
    ['one address for two hosts', ['a=127.0.0.1', 'b=127.0.0.1', '--this', 'a'], /named twice, for a and b/],
    ['more than one "="', ['a=127.0.0.1=2', '--this', 'a'], /127\.0\.0\.1=2/],
  ])('refuses %s', async (_, argv, why) => {
    await expect(init([...argv, ...places('host1')], none)).rejects.toThrow(why);
  });

  it('takes the names of voters as it takes those of hosts', async () => {
    await first('--voters', 'Host1, HOST2,host3');
    expect(JSON.parse(await readFile(join(directory, 'host1/config.json'), 'utf8'))).toMatchObject({
      voters: ['host1', 'host2', 'host3'],
    });
  });
});

describe('weft voters restore', { timeout: 60_000 }, () => {
  it('leaves a running agent’s disk where it is', async () => {
    await first();
    const path = join(directory, 'host1/state/voter.db');
    using running = openVoterStore(path);
    await expect(restore('empty')).rejects.toThrow('stop the agent first');
    expect(running.membership().member).toBe(true);
    expect(await readdir(join(directory, 'host1/state'))).not.toContainEqual(expect.stringContaining('before-restore'));
  });

  it('takes neither an empty file nor the agent’s own state for a voter’s disk, and changes neither', async () => {
    await first();
    const empty = join(directory, 'copy.db');
    await writeFile(empty, '');
    await expect(restore(empty)).rejects.toThrow(/copy\.db is no voter's disk/);
    expect((await readFile(empty)).length).toBe(0);
    const state = join(directory, 'host1/state/state.db');
    openStore(state).close();
    await expect(restore(state)).rejects.toThrow(/state\.db is no voter's disk/);
    const again = openStore(state);
    expect(again.load().leases).toEqual([]);
    again.close();
  });

  it('replaces a disk that is damaged, and takes no damaged copy', async () => {
    await first();
    const path = join(directory, 'host1/state/voter.db');
    const sound = join(directory, 'sound.db');
    {
      using store = openVoterStore(path);
      const numbers = { counter: 1, proposer: 'p' };
      store.commit(() => {
        for (let at = 0; at < 200; at++) {
          const cell = { value: { at, text: 'x'.repeat(200) }, uid: 'u', version: `v${at}` };
          store.write(`peer/n${at}`, { promised: numbers, accepted: numbers, cell: cell as never });
        }
      });
    }
    await copyFile(path, sound);
    const bytes = await readFile(path);
    bytes.fill(0x5a, 3 * 4096, 12 * 4096);
    await writeFile(path, bytes);
    expect(() => openVoterStore(path)).toThrow(/damaged .*move it away, and this voter takes every record over/);
    const damaged = join(directory, 'damaged.db');
    await copyFile(path, damaged);
    await expect(restore(damaged)).rejects.toThrow(/damaged/);
    expect(await restore(sound)).toMatch(/has 200 records.*before-restore/);
  });
});
