// Who may write which record: the rule, and that voters hold to it whatever a caller claims. Real TLS.

import { request } from 'node:https';
import { isDeepStrictEqual } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { readTlsFiles } from '#agent/registry/peers/tls.ts';
import { mayWrite, type LookUp, type RecordWrite } from '#agent/registry/peers/writers.ts';
import type { Registry } from '#agent/registry/registry.ts';
import { createPeersCluster, type PeersCluster } from '#test/support/peers-cluster.ts';

const signal = new AbortController().signal;
const disposals: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const dispose of disposals.splice(0).toReversed()) await dispose();
}, 20_000);

const mine = 'host1.1a2b3c4d';
const theirs = 'host2.5e6f7a8b';
const value = { schema: 1, node: { name: 'host2', uid: 'u2' }, seq: 3, blocks: [{ cidr: '10.32.0.0/13' }] };
const heir = { name: mine, uid: 'uid-of-host1' };

describe('the rule', () => {
  const third = { name: 'host3.00000000', uid: 'x' };
  const nobody: LookUp = () => undefined;
  const peer = (name: string, before: object | null, after: object | null): RecordWrite => ({
    kind: 'peer',
    name,
    before: before as RecordWrite['before'],
    after: after as RecordWrite['after'],
  });

  it.for<readonly [string, RecordWrite]>([
    ['its own record', peer(mine, null, { ...value, node: { name: 'host1', uid: 'u1' } })],
    ['its own record in a further pool', peer(`${mine}.pool-green`, null, { node: { name: 'host1', uid: 'u1' } })],
    ['the end of its own record', peer(mine, value, null)],
    ["itself as another's heir", peer(theirs, value, { ...value, heir, seq: 4 })],
    ['the end of what it is the heir of', peer(theirs, { ...value, heir }, null)],
    ['itself as heir in the place of one that is gone', peer(theirs, { ...value, heir: third }, { ...value, heir })],
    [
      'itself as founder',
      { kind: 'universe', name: 'default', before: { ranges: [] }, after: { ranges: [], founder: heir } },
    ],
    [
      'namespaces into a universe that is founded',
      { kind: 'universe', name: 'blue', before: { founder: heir }, after: { founder: heir, namespaces: ['team-a'] } },
    ],
    [
      'that another is gone, whose session is lost',
      { kind: 'session', name: theirs, before: null, after: { sessionId: 'lost', removed: true } },
    ],
    ['its session', { kind: 'session', name: mine, before: null, after: {} }],
  ])('lets host1 write %s', ([, write]) => {
    expect(mayWrite('host1', write, nobody)).toBeUndefined();
  });

  it.for<readonly [string, RecordWrite]>([
    ["another's record", peer(theirs, null, value)],
    ["another's blocks", peer(theirs, value, { ...value, blocks: [] })],
    ["another's blocks beside the heir", peer(theirs, value, { ...value, heir, blocks: [] })],
    ['a third as heir', peer(theirs, value, { ...value, heir: third })],
    ["the end of another's record", peer(theirs, value, null)],
    ["another node's name into its own", peer(mine, null, value)],
    [
      'its own heir away',
      peer(
        mine,
        { ...value, node: { name: 'host1' }, heir: { name: theirs, uid: 'x' } },
        { ...value, node: { name: 'host1', uid: 'u' } },
      ),
    ],
    ['a record whose name only begins like its own', peer('host1.x.1a2b3c4d', null, value)],
    ['a record whose name only ends like one of a pool', peer(`${theirs}.pool-host1.1a2b3c4d`, null, value)],
    [
      'another founder',
      { kind: 'universe', name: 'default', before: {}, after: { founder: { name: theirs, uid: 'x' } } },
    ],
    [
      'over a founder',
      { kind: 'universe', name: 'default', before: { founder: { name: theirs, uid: 'x' } }, after: { founder: heir } },
    ],
    [
      'other ranges into a universe that is founded',
      {
        kind: 'universe',
        name: 'default',
        before: { founder: heir, ranges: ['10.32.0.0/12'] },
        after: { founder: heir, ranges: ['10.0.0.0/8'] },
      },
    ],
    [
      'other reserved parts into a universe that is founded',
      {
        kind: 'universe',
        name: 'default',
        before: { founder: heir, reserved: ['10.43.0.0/16'] },
        after: { founder: heir },
      },
    ],
    ['the end of the universe', { kind: 'universe', name: 'default', before: {}, after: null }],
    [
      "another's session, where there is none",
      { kind: 'session', name: theirs, before: null, after: { sessionId: 'x' } },
    ],
    ["another's session", { kind: 'session', name: theirs, before: {}, after: {} }],
  ])('does not let host1 write %s', ([, write]) => {
    expect(mayWrite('host1', write, nobody)).toMatch(/./);
  });

  it('lets it replace an heir only that is gone, or whose heir it is', () => {
    const write = peer(theirs, { ...value, heir: third }, { ...value, heir });
    const alive: LookUp = (name) => (name === third.name ? { uid: 'x', value: {} } : undefined);
    expect(mayWrite('host1', write, alive)).toContain('has an heir');
    const diedToo: LookUp = (name) => (name === third.name ? { uid: 'x', value: { heir } } : undefined);
    expect(mayWrite('host1', write, diedToo)).toBeUndefined();
    expect(mayWrite('host1', peer(theirs, { ...value, heir: third }, null), diedToo)).toBeUndefined();
  });

  it('lets an heir drop grants, and add none', () => {
    const grants = [{ id: 1 }, { id: 2 }];
    const inherited = { ...value, heir, granting: grants };
    const change = (granting: unknown): RecordWrite => peer(theirs, inherited, { ...inherited, granting, seq: 9 });
    expect(mayWrite('host1', change([{ id: 2 }]), nobody)).toBeUndefined();
    expect(mayWrite('host1', change([{ id: 3 }]), nobody)).toContain('granting');
    expect(mayWrite('host2', { ...change([]), name: mine }, nobody)).toMatch(/./);
  });

  it('lets an heir take blocks out, and put none in but into a record that was never seeded', () => {
    const blocks = [{ cidr: '10.32.0.0/13' }, { cidr: '10.40.0.0/14' }];
    const change = (seeded: boolean, to: Readonly<Record<string, unknown>>): RecordWrite => {
      const inherited = { ...value, heir, seeded, blocks: seeded ? blocks : [] };
      return peer(theirs, inherited, { ...inherited, ...to, seq: 9 });
    };
    expect(mayWrite('host1', change(true, { blocks: blocks.slice(1) }), nobody)).toBeUndefined();
    expect(mayWrite('host1', change(true, { blocks: [...blocks, { cidr: '10.44.0.0/14' }] }), nobody)).toContain(
      'blocks',
    );
    expect(mayWrite('host1', change(true, { blocks: [], seeded: false }), nobody)).toContain('seeded');
    expect(mayWrite('host1', change(false, { blocks, seeded: true }), nobody)).toBeUndefined();
    expect(mayWrite('host1', change(false, { blocks }), nobody)).toContain('blocks');
    expect(mayWrite('host2', { ...change(true, { blocks: [] }), name: mine }, nobody)).toMatch(/./);
  });

  it('lets any node declare another gone, and no more', () => {
    const before = { sessionId: 's', renewals: 3 };
    const session = (after: RecordWrite['after']): RecordWrite => ({ kind: 'session', name: theirs, before, after });
    const alive: LookUp = () => ({ uid: 'x', value: {} });
    expect(mayWrite('host1', session({ ...before, removed: true }), alive)).toBeUndefined();
    expect(mayWrite('host1', session({ ...before, removed: true, renewals: 4 }), alive)).toMatch(/./);
    expect(mayWrite('host1', session(null), alive)).toMatch(/./);
    expect(mayWrite('host1', session(null), nobody)).toBeUndefined();
    expect(mayWrite('host1', peer(theirs, value, { ...value, removed: true, seq: 4 }), alive)).toBeUndefined();
    expect(mayWrite('host1', peer(theirs, value, { ...value, removed: true, blocks: [] }), alive)).toContain('blocks');
    expect(mayWrite('host1', peer(theirs, { ...value, removed: true }, value), alive)).toMatch(/./);
  });
});

describe('the record of a node that a person has declared gone', () => {
  const nobody: LookUp = () => undefined;
  const gone = { ...value, removed: true, granting: [{ id: 1 }] };
  const change = (fields: object, before: object = gone): RecordWrite =>
    ({ kind: 'peer', name: theirs, before, after: { ...before, seq: 4, ...fields } }) as RecordWrite;

  it('may lose blocks, whole or in part, and grants', () => {
    for (const blocks of [[], [{ cidr: '10.36.0.0/14' }], [{ cidr: '10.32.0.0/13' }]]) {
      expect(mayWrite('host1', change({ blocks, granting: [] }), nobody)).toBeUndefined();
    }
  });

  it.for([
    ['gets no others', { blocks: [{ cidr: '10.40.0.0/13' }] }],
    ['gets no larger ones', { blocks: [{ cidr: '10.32.0.0/12' }] }],
    ['gets none with other marks', { blocks: [{ cidr: '10.32.0.0/13', via: { name: mine, uid: 'u' } }] }],
    ['gets none that are no blocks', { blocks: [7, null] }],
    ['gets no grants', { granting: [{ id: 2 }] }],
    ['keeps the rest', { overlay: ['10.32.0.9'] }],
  ] as const)('%s', ([, fields]) => {
    expect(mayWrite('host1', change(fields), nobody)).toMatch(/may not change/);
  });

  it('is its heir’s once there is one, and another’s never while it is not gone', () => {
    expect(
      mayWrite('host1', change({ blocks: [] }, { ...gone, heir: { name: 'host3.00000000', uid: 'x' } }), nobody),
    ).toMatch(/./);
    expect(mayWrite('host1', change({ blocks: [] }, value), nobody)).toMatch(/./);
  });
});

describe('voters', { timeout: 60_000 }, () => {
  async function start(): Promise<readonly [PeersCluster, ...Registry[]]> {
    const peers = await createPeersCluster(3, { rule: mayWrite });
    disposals.push(async () => peers[Symbol.asyncDispose]());
    const all = await Promise.all(['host1', 'host2', 'host3', 'client1'].map((name) => peers.open(name)));
    disposals.push(() => Promise.all(all.map((registry) => registry.close())));
    return [peers, ...all];
  }

  it('refuse with the reason what the writer may not write, and let the heir in', async () => {
    const [, one, two, , client] = (await start()) as [PeersCluster, Registry, Registry, Registry, Registry];
    const made = await two.create('peer', theirs, value, signal);
    if (made.kind !== 'ok') throw new Error(JSON.stringify(made));
    expect(await client.update(made.record, { ...value, blocks: [] }, signal)).toMatchObject({
      kind: 'refused',
      reason: expect.stringContaining('client1'),
    });
    expect(await one.delete(made.record, signal)).toMatchObject({ kind: 'refused' });
    expect(await two.get('peer', theirs, signal)).toEqual(made.record);
    const inherited = await one.update(made.record, { ...value, heir, seq: 4 }, signal);
    if (inherited.kind !== 'ok') throw new Error(JSON.stringify(inherited));
    expect(await one.delete(inherited.record, signal)).toEqual({ kind: 'ok' });
    expect(await client.get('peer', theirs, signal)).toBeUndefined();
  });

  it('accept neither a cell in the name of another nor one that nobody has', async () => {
    const [peers, , two] = await start();
    await two?.create('peer', theirs, value, signal);
    const voter = await whoHas(peers, value);
    const held = await askOf(voter, { kind: 'read' });
    const ballot = { counter: 1000, proposer: 'evil' };
    const promised = await askOf(voter, { kind: 'prepare', ballot });
    expect(promised).toMatchObject({ kind: 'promised' });
    const { voterId, cell } = promised as { readonly voterId: string; readonly cell: Record<string, unknown> };
    const forged = { ...cell, value: { ...value, blocks: [] } };
    const accept = (proposed: unknown): Promise<unknown> =>
      askOf(voter, { kind: 'accept', ballot, voterId, cell: proposed });
    expect(await accept({ ...forged, version: '1000.evil' })).toMatchObject({ kind: 'refused' });
    expect(await accept({ ...forged, version: '1000.evil', writer: 'client1' })).toMatchObject({ kind: 'refused' });
    // As if it confirmed what host2 wrote.
    expect(await accept(forged)).toMatchObject({ error: expect.stringContaining('confirms') });
    expect(await accept(null)).toMatchObject({ error: expect.stringContaining('says that it has none') });
    expect(cellOf(await askOf(voter, { kind: 'read' }))).toEqual(cellOf(held));
    // What is really there may be confirmed by anybody.
    expect(await accept(cell)).toMatchObject({ kind: 'accepted' });
  });

  it('let only voters ask as voters', async () => {
    const [peers] = await start();
    expect(await post(peers, '/v1/hello', { session: '9.x' })).toEqual({
      error: expect.stringContaining('client1 is no voter here'),
    });
    expect(await post(peers, '/v1/copy', { floor: 5, after: '' })).toEqual({
      error: expect.stringContaining('client1 is no voter here'),
    });
    expect(await post(peers, '/v1/hello', { session: 'x' })).toMatchObject({
      error: expect.stringContaining('session'),
    });
  });

  type Send = (path: string, body: unknown) => Promise<unknown>;

  const askOf = (send: Send, body: unknown): Promise<unknown> =>
    send('/v1/acceptor', { key: `peer/${theirs}`, request: body });

  const cellOf = (answer: unknown): unknown => (answer as { readonly cell?: unknown }).cell;

  /** A write is done when two voters have it; the third may have joined too late to be told. */
  async function whoHas(peers: PeersCluster, wanted: unknown): Promise<Send> {
    const sends = peers.voters.map(
      ({ port }): Send =>
        (path, body) =>
          post(peers, path, body, port),
    );
    for (const send of sends) {
      const cell = cellOf(await askOf(send, { kind: 'read' })) as { readonly value: unknown } | null | undefined;
      if (isDeepStrictEqual(cell?.value, wanted)) return send;
    }
    throw new Error('no voter has it');
  }

  async function post(
    peers: PeersCluster,
    path: string,
    body: unknown,
    port = peers.voters[0]?.port,
  ): Promise<unknown> {
    const keys = peers.keys.get('client1');
    if (keys === undefined) throw new Error('no keys');
    const tls = await readTlsFiles(keys);
    const options = { ...tls, agent: false, host: '127.0.0.1', port, path };
    return new Promise((resolve, reject) => {
      const outgoing = request(
        { ...options, method: 'POST', headers: { 'content-type': 'application/json' } },
        (incoming) => {
          let text = '';
          incoming.setEncoding('utf8').on('data', (chunk: string) => (text += chunk));
          incoming.on('end', () => resolve(JSON.parse(text)));
        },
      );
      outgoing.on('error', reject);
      outgoing.end(JSON.stringify(body));
    });
  }
});
