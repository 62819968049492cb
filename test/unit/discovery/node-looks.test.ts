// Which Nodes are read, and when: those of new peers, those whose record names another address, and those that this node
// would take over from.

import { setTimeout as sleep } from 'node:timers/promises';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import type { PeerNode } from '#agent/discovery/discovery.ts';
import { createDirectory, type Directory } from '#agent/discovery/node-directory.ts';
import { attendPeers, nodesPath } from '#agent/discovery/node-looks.ts';
import { WeftError } from '#agent/errors.ts';
import type { KubeApi, KubeRequest } from '#agent/kubernetes/api.ts';
import { until } from '#test/support/registry-contract.ts';

/** The API server's Nodes, by name. */
let nodes: Map<string, { readonly uid: string; readonly addresses: readonly string[] }>;
let asked: KubeRequest[];
let away: boolean;
/** Every path is answered by 404, as by a proxy that knows no API server. */
let lost: boolean;
let directory: Directory;
let peers: PeerNode[];
let wards: readonly PeerNode[];
let changed: () => void;
let stop: () => void;

const api: KubeApi = {
  call: async (call) => {
    asked.push(call);
    if (away) throw new WeftError('registry', 'away');
    if (call.path === nodesPath) {
      const items = [...nodes.keys()].map((name) => objectOf(name));
      return { status: 200, body: { metadata: { resourceVersion: '1' }, items } };
    }
    if (lost) return { status: 404, body: { message: '404 page not found' } };
    const name = call.path.slice(nodesPath.length + 1);
    const body = objectOf(name);
    return body === undefined
      ? { status: 404, body: { reason: 'NotFound', details: { name } } }
      : { status: 200, body };
  },
  // oxlint-disable-next-line require-yield
  lines: async function* () {
    throw new Error('nobody watches here');
  },
  close: () => undefined,
};

function objectOf(name: string): object | undefined {
  const node = nodes.get(name);
  if (node === undefined) return undefined;
  const addresses = node.addresses.map((address) => ({ type: 'InternalIP', address }));
  return { metadata: { name, uid: node.uid, resourceVersion: '1' }, status: { addresses } };
}

function peer(name: string, uid: string, address: string, takenOver = false): PeerNode {
  return { name, uid, underlay: [address], takenOver };
}

beforeEach(() => {
  nodes = new Map([['host1', { uid: 'u1', addresses: ['192.0.2.1'] }]]);
  [asked, away, lost, peers, wards] = [[], false, false, [], []];
  const self = { nodeName: 'host1', nodeUid: 'u1', underlayAddresses: ['192.0.2.1'] };
  const log = { warn: () => undefined, error: () => undefined } as never;
  directory = createDirectory(self, async () => undefined, log);
});
afterEach(() => stop());

function attend(lookEveryMs = 1e9): void {
  const source = {
    peerNodes: () => peers,
    wards: () => wards,
    onChange: (listener: () => void) => {
      changed = listener;
      return () => undefined;
    },
  };
  stop = attendPeers(source, { api, directory, lookEveryMs });
}

const addressOf = (name: string): string | undefined => directory.find(name)?.underlayAddresses[0];
const paths = (): readonly string[] => asked.map(({ path }) => path.slice(nodesPath.length + 1));

describe('the node of a peer', { timeout: 30_000 }, () => {
  it('is read once when the peer is new', async () => {
    nodes.set('host2', { uid: 'u2', addresses: ['192.0.2.2'] });
    peers = [peer('host2', 'u2', '192.0.2.2')];
    attend();
    await until(() => addressOf('host2') === '192.0.2.2', 'host2', 5000);
    for (let round = 0; round < 3; round += 1) {
      changed();
      await sleep(600);
    }
    expect(paths()).toEqual(['host2']);
  });

  it('that names an address which its Node does not have is read once for that', async () => {
    nodes.set('host2', { uid: 'u2', addresses: ['192.0.2.22'] });
    directory.put({ nodeName: 'host2', nodeUid: 'u2', underlayAddresses: ['192.0.2.2'] });
    peers = [peer('host2', 'u2', '192.0.2.66')];
    attend();
    await until(() => addressOf('host2') === '192.0.2.22', 'the address of the Node', 5000);
    changed();
    await sleep(2000);
    expect(paths()).toEqual(['host2']);
  });

  it('that is not there, or is another of its name, is gone', async () => {
    nodes.set('host3', { uid: 'u3b', addresses: ['192.0.2.3'] });
    peers = [peer('host2', 'u2', '192.0.2.2'), peer('host3', 'u3', '192.0.2.3')];
    let changes = 0;
    directory.onChange(() => (changes += 1));
    attend();
    await until(() => directory.gone().size === 2, 'both gone', 5000);
    expect(directory.gone()).toEqual(new Set(['u2', 'u3']));
    expect(directory.find('host3')?.nodeUid).toBe('u3b');
    await until(() => changes === 1, 'the listeners', 1000);
  });

  it('is gone when somebody takes its space over, and forgotten when its record is', async () => {
    directory.put({ nodeName: 'host2', nodeUid: 'u2', underlayAddresses: ['192.0.2.2'] });
    peers = [peer('host2', 'u2', '192.0.2.2', true)];
    attend();
    await until(() => directory.gone().has('u2'), 'gone', 5000);
    expect(directory.find('host2')).toBeUndefined();
    peers = [];
    changed();
    await until(() => directory.gone().size === 0, 'forgotten', 5000);
    expect(asked).toEqual([]);
  });

  it('is listed with all others when many are new', async () => {
    for (let index = 100; index < 140; index += 1) {
      nodes.set(`n${index}`, { uid: `u${index}`, addresses: [`192.0.2.${index}`] });
      peers.push(peer(`n${index}`, `u${index}`, `192.0.2.${index}`));
    }
    peers.push(peer('lost', 'u-lost', '192.0.2.9'));
    attend();
    await until(() => addressOf('n139') === '192.0.2.139', 'the last of them', 5000);
    await until(() => directory.gone().has('u-lost'), 'the one that is not there', 5000);
    expect(paths()).toEqual(['', 'lost']);
  });
});

describe('a node that this one would take over from', { timeout: 30_000 }, () => {
  it('is looked for, by its metadata alone, until it is gone; a look in vain is made again', async () => {
    nodes.set('host2', { uid: 'u2', addresses: ['192.0.2.2'] });
    directory.put({ nodeName: 'host2', nodeUid: 'u2', underlayAddresses: ['192.0.2.2'] });
    peers = [peer('host2', 'u2', '192.0.2.2')];
    wards = peers;
    attend(100);
    await until(() => asked.length > 2, 'looks', 5000);
    expect(new Set(asked.map(({ accept }) => accept?.includes('as=PartialObjectMetadata;')))).toEqual(new Set([true]));
    expect(directory.gone().size).toBe(0);
    nodes.delete('host2');
    for (const trouble of ['away', 'lost']) {
      [away, lost] = [trouble === 'away', trouble === 'lost'];
      const before = asked.length;
      await until(() => asked.length > before + 2, 'looks in vain', 5000);
      expect(directory.gone().size).toBe(0);
    }
    lost = false;
    await until(() => directory.gone().has('u2'), 'gone', 5000);
    const then = asked.length;
    await sleep(500);
    expect(asked.length).toBe(then);
  });
});
