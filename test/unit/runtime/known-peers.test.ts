// A restart must not forget the peers: what was known counts until the registry shows it anew or a whole list lacks it.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { afterEach, beforeEach, describe, expect, test, vi } from 'vitest';

import { WeftError } from '#agent/errors.ts';
import type { RegistryRecord } from '#agent/registry/registry.ts';
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';
import { withKnownPeers } from '#agent/runtime/known-peers.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';

const peer = (name: string, blocks: readonly string[], self = false): PeerView => ({
  name,
  nodeName: name,
  self,
  underlayAddress: '192.0.2.1',
  overlayAddresses: [],
  blocks,
});
const own = peer('own', ['10.32.0.0/13'], true);

/** IPAM as it looks right after a start: peers come in later, by `hear`. */
function fakeIpam(): { readonly ipam: RunningIpam; readonly hear: (peers: readonly PeerView[]) => void } {
  let peers: readonly PeerView[] = [];
  const listeners = new Set<() => void>();
  const ipam = {
    view: () => ({ ranges: ['10.32.0.0/12'], peers }) as unknown as IpamView,
    onChange: (listener: () => void) => {
      listeners.add(listener);
      return () => listeners.delete(listener);
    },
    close: async () => undefined,
  } as unknown as RunningIpam;
  return {
    ipam,
    hear: (now) => {
      peers = now;
      for (const listener of listeners) listener();
    },
  };
}

const record = (name: string): RegistryRecord => ({ kind: 'peer', name, uid: name, version: '1', value: {} });
const away = async (): Promise<never> => await Promise.reject(new WeftError('registry', 'away'));

let directory = '';
let path = '';
const warnings: string[] = [];
const log = { warn: (_: object, message: string) => void warnings.push(message) };
const fast = { saveAfterMs: 1, listEveryMs: 5 };

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-known-peers-'));
  path = join(directory, 'peers.json');
  warnings.length = 0;
});
afterEach(async () => {
  await rm(directory, { recursive: true, force: true });
});

async function rememberBoth(): Promise<void> {
  const { ipam, hear } = fakeIpam();
  const known = await withKnownPeers(ipam, { path, log, registry: { list: away }, ...fast });
  hear([own, peer('a', ['10.40.0.0/14']), peer('b', ['10.44.0.0/14'])]);
  await known.close();
}

const namesOf = (view: IpamView): readonly string[] => view.peers.map(({ name }) => name);

describe('peers known before a restart', () => {
  test('are in the view from the start, for as long as the registry is away', async () => {
    await rememberBoth();
    const { ipam, hear } = fakeIpam();
    await using known = asDisposable(await withKnownPeers(ipam, { path, log, registry: { list: away }, ...fast }));
    expect(namesOf(known.view())).toEqual(['a', 'b']);
    hear([own]);
    expect(namesOf(known.view())).toEqual(['a', 'b', 'own']);
    expect(known.view().peers.find(({ name }) => name === 'b')?.blocks).toEqual(['10.44.0.0/14']);
  });

  test('give way, one by one, to what is heard: name and blocks', async () => {
    await rememberBoth();
    const { ipam, hear } = fakeIpam();
    await using known = asDisposable(await withKnownPeers(ipam, { path, log, registry: { list: away }, ...fast }));
    hear([own, peer('a', ['10.40.0.0/15']), peer('c', ['10.44.0.0/15'])]);
    const blocks = Object.fromEntries(known.view().peers.map(({ name, blocks }) => [name, blocks]));
    expect(blocks).toEqual({ own: ['10.32.0.0/13'], a: ['10.40.0.0/15'], b: [], c: ['10.44.0.0/15'] });
  });

  test('are forgotten once a whole list lacks them, and listeners hear of it; others stay', async () => {
    await rememberBoth();
    const { ipam } = fakeIpam();
    const registry = { list: async () => [record('a')] };
    await using known = asDisposable(await withKnownPeers(ipam, { path, log, registry, ...fast }));
    const listener = vi.fn();
    known.onChange(listener);
    await vi.waitFor(() => expect(namesOf(known.view())).toEqual(['a']), { timeout: 10_000 });
    expect(listener).toHaveBeenCalled();
  });

  test('are asked for again and again while one is neither heard nor gone, then no more', async () => {
    await rememberBoth();
    const { ipam, hear } = fakeIpam();
    const list = vi.fn(async () => [record('a'), record('b')]);
    await using known = asDisposable(await withKnownPeers(ipam, { path, log, registry: { list }, ...fast }));
    await vi.waitFor(() => expect(list.mock.calls.length).toBeGreaterThan(2), { timeout: 10_000 });
    hear([own, peer('a', []), peer('b', [])]);
    known.view();
    await vi.waitFor(async () => {
      const before = list.mock.calls.length;
      await new Promise((resolve) => setTimeout(resolve, 30));
      expect(list.mock.calls.length).toBe(before);
    }, 10_000);
  });

  test.each([
    ['no JSON', '{'],
    ['another form', '{"peers":[]}'],
    ['a peer without blocks', '[{"name":"a","nodeName":"a","self":false,"overlayAddresses":[]}]'],
    ['null', '[null]'],
  ])('a damaged file is an empty one, and says so: %s', async (_, text) => {
    await writeFile(path, text);
    const { ipam } = fakeIpam();
    await using known = asDisposable(await withKnownPeers(ipam, { path, log, registry: { list: away }, ...fast }));
    expect(namesOf(known.view())).toEqual([]);
    expect(warnings.join()).toMatch(/learnt anew/);
  });
});

function asDisposable(ipam: RunningIpam): RunningIpam & AsyncDisposable {
  return { ...ipam, [Symbol.asyncDispose]: async () => await ipam.close() };
}
