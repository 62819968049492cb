// nftables, both ways: whole rulesets through libnftables, single elements over nfnetlink; compared with what nft lists.
import { describe, expect, it } from 'vitest';

import { Nftables, NftablesError } from '#agent/netlink/nftables.ts';
import {
  delSetElement,
  dumpSetElements,
  maxElementsPerRequest,
  newSetElement,
  setKey,
} from '#agent/netlink/set-element.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';
import { TestNetns } from '#test/support/netns.ts';

const ruleset = `
table inet weft {
  set pods { type ifname . ipv4_addr; }
  set peers { type ipv4_addr; }
  set peers6 { type ipv6_addr; }
  set spans { type ipv4_addr . inet_service; flags interval; }
  set marked { type mark; timeout 1h; }
  map dispatch { type ipv4_addr : verdict; }
  chain tenant { }
}`;

const set = (name: string): { readonly table: string; readonly set: string } => ({ table: 'weft', set: name });
const pod = (i: number): Uint8Array => setKey({ ifname: `weft${i}` }, { ip: `10.32.${i >> 8}.${i & 255}` });

interface Listed {
  readonly nftables: readonly {
    readonly set?: { readonly elem?: readonly unknown[] };
    readonly map?: { readonly elem?: readonly unknown[] };
  }[];
}

async function elementsOf(ns: TestNetns, kind: 'set' | 'map', name: string): Promise<readonly unknown[]> {
  const listed = await ns.json<Listed>(['nft', '-j', 'list', kind, 'inet', 'weft', name]);
  return listed.nftables.flatMap((entry) => entry[kind]?.elem ?? []);
}

describe('set elements over nfnetlink', () => {
  it('keys of every type, verdicts and ranges: as nft lists them', async () => {
    await using ns = await TestNetns.create();
    using nft = Nftables.open({ netnsPath: ns.path });
    nft.run(ruleset);
    using socket = NetlinkSocket.open({ protocol: 'netfilter', netnsPath: ns.path });
    socket.transaction([
      newSetElement(set('pods'), [{ key: pod(1) }, { key: pod(2) }]),
      newSetElement(set('peers'), [{ key: setKey({ ip: '192.0.2.7' }) }]),
      newSetElement(set('peers6'), [{ key: setKey({ ip: 'fd00::7' }) }]),
      newSetElement(set('spans'), [
        { key: setKey({ ip: '10.0.0.0' }, { port: 80 }), keyEnd: setKey({ ip: '10.0.0.255' }, { port: 90 }) },
      ]),
      newSetElement(set('marked'), [{ key: setKey({ mark: 0x2000 }), timeoutMs: 60_000 }]),
      newSetElement(set('dispatch'), [
        { key: setKey({ ip: '10.0.0.1' }), verdict: 'accept' },
        { key: setKey({ ip: '10.0.0.2' }), verdict: 'jump', chain: 'tenant' },
        { key: setKey({ ip: '10.0.0.3' }), verdict: 'drop' },
      ]),
    ]);
    expect(await elementsOf(ns, 'set', 'pods')).toEqual([
      { concat: ['weft1', '10.32.0.1'] },
      { concat: ['weft2', '10.32.0.2'] },
    ]);
    expect(await elementsOf(ns, 'set', 'peers')).toEqual(['192.0.2.7']);
    expect(await elementsOf(ns, 'set', 'peers6')).toEqual(['fd00::7']);
    expect(await elementsOf(ns, 'set', 'spans')).toEqual([
      { concat: [{ prefix: { addr: '10.0.0.0', len: 24 } }, { range: [80, 90] }] },
    ]);
    expect(await elementsOf(ns, 'set', 'marked')).toMatchObject([{ elem: { val: 0x2000, timeout: 60 } }]);
    expect(await elementsOf(ns, 'map', 'dispatch')).toEqual([
      ['10.0.0.1', { accept: null }],
      ['10.0.0.2', { jump: { target: 'tenant' } }],
      ['10.0.0.3', { drop: null }],
    ]);
    const dumped = socket.dump(dumpSetElements(set('dispatch'))).flatMap((list) => list.elements ?? []);
    expect(dumped).toHaveLength(3);
    expect(dumped).toContainEqual({
      key: { value: new Uint8Array([10, 0, 0, 2]) },
      data: { verdict: { code: -3, chain: 'tenant' } },
    });
  });

  it('a transaction is all or nothing', async () => {
    await using ns = await TestNetns.create();
    using nft = Nftables.open({ netnsPath: ns.path });
    nft.run(ruleset);
    using socket = NetlinkSocket.open({ protocol: 'netfilter', netnsPath: ns.path });
    expect(() =>
      socket.transaction([
        newSetElement(set('pods'), [{ key: pod(1) }]),
        newSetElement(set('nowhere'), [{ key: pod(1) }]),
      ]),
    ).toThrow('newSetElement nowhere: ENOENT');
    expect(() =>
      socket.transaction([
        newSetElement(set('pods'), [{ key: pod(1) }]),
        delSetElement(set('pods'), [{ key: pod(9) }]),
      ]),
    ).toThrow('delSetElement pods: ENOENT');
    expect(() =>
      socket.transaction([
        delSetElement(set('pods'), [{ key: pod(9) }]),
        newSetElement(set('pods'), [{ key: pod(1) }]),
      ]),
    ).toThrow('ENOENT');
    expect(await elementsOf(ns, 'set', 'pods')).toEqual([]);
    socket.transaction([newSetElement(set('pods'), [{ key: pod(1) }])]);
    socket.transaction([newSetElement(set('pods'), [{ key: pod(1) }])]);
    expect(() => socket.transaction([newSetElement(set('pods'), [{ key: pod(1) }], { exclusive: true })])).toThrow(
      'EEXIST',
    );
    socket.transaction([delSetElement(set('pods'), [{ key: pod(1) }])]);
    socket.transaction([]);
    expect(await elementsOf(ns, 'set', 'pods')).toEqual([]);
    expect(() => socket.dump(dumpSetElements(set('nowhere')))).toThrow('ENOENT');
  });

  it('thousands in one transaction, and one more among them quickly', async () => {
    await using ns = await TestNetns.create();
    using nft = Nftables.open({ netnsPath: ns.path });
    nft.run(ruleset);
    using socket = NetlinkSocket.open({ protocol: 'netfilter', netnsPath: ns.path });
    const count = 10_000;
    const keys = Array.from({ length: count }, (_, i) => ({ key: pod(i) }));
    const requests = [];
    for (let i = 0; i < count; i += maxElementsPerRequest)
      requests.push(newSetElement(set('pods'), keys.slice(i, i + maxElementsPerRequest)));
    const start = performance.now();
    socket.transaction(requests);
    const all = performance.now() - start;
    const one = performance.now();
    for (let i = 0; i < 20; i += 1) socket.transaction([newSetElement(set('pods'), [{ key: pod(count + i) }])]);
    const each = (performance.now() - one) / 20;
    const through = performance.now();
    for (let i = 20; i < 25; i += 1) nft.run(`add element inet weft pods { "weft${count + i}" . 10.99.0.${i} }`);
    const eachThrough = (performance.now() - through) / 5;
    console.log(
      `nftables: ${count} elements ${all.toFixed(1)} ms; one more ${each.toFixed(2)} ms, by libnftables ${eachThrough.toFixed(2)} ms`,
    );
    expect(socket.dump(dumpSetElements(set('pods'))).flatMap((list) => list.elements ?? [])).toHaveLength(count + 25);
  });
});

describe('libnftables', () => {
  it('applies, lists as text and never as JSON, refuses with its own words', async () => {
    await using ns = await TestNetns.create();
    using nft = Nftables.open({ netnsPath: ns.path });
    expect(nft.run(ruleset)).toBe('');
    expect(nft.run('list ruleset')).toBe(await ns.exec(['nft', 'list', 'ruleset']));
    // @ts-expect-error: libnftables' JSON listing aborts the process when two contexts make it at once.
    expect(nft.run('list ruleset', { json: true })).toBe(nft.run('list ruleset'));
    expect(nft.run('list table inet weft')).not.toContain('handle');
    expect(nft.run('list table inet weft', { handle: true })).toContain('# handle');
    let failure: unknown;
    try {
      nft.run('add rule inet weft nowhere accept');
    } catch (error) {
      failure = error;
    }
    expect(failure).toBeInstanceOf(NftablesError);
    expect((failure as NftablesError).message).toContain('No such file or directory');
    expect((failure as NftablesError).details).toContain('add rule inet weft nowhere accept');
    expect(() => nft.run('add table inet second\nadd rule inet weft nowhere accept')).toThrow(NftablesError);
    expect(nft.run('list tables')).toBe('table inet weft\n');
    expect(() => nft.run('add tabel inet weft')).toThrow('syntax error');
  });

  it('asynchronous calls run one after the other, and end before the context does', async () => {
    await using ns = await TestNetns.create();
    const nft = Nftables.open({ netnsPath: ns.path });
    await nft.runAsync(ruleset);
    const runs = Array.from({ length: 16 }, (_, i) => nft.runAsync(`add element inet weft peers { 192.0.2.${i + 1} }`));
    expect(() => nft.run('list ruleset')).toThrow('in use');
    const failed = nft.runAsync('add element inet weft nowhere { 1.2.3.4 }');
    await expect(failed).rejects.toThrow(NftablesError);
    await Promise.all(runs);
    expect(await elementsOf(ns, 'set', 'peers')).toHaveLength(16);
    await expect(nft.runAsync('flush ruleset', {}, AbortSignal.abort())).rejects.toThrow('abort');
    const last = nft.runAsync('list tables');
    nft[Symbol.dispose]();
    await expect(last).rejects.toThrow('closed');
    expect(() => nft.run('list tables')).toThrow('closed');
    expect(await ns.exec(['nft', 'list', 'tables'])).toBe('table inet weft\n');
  });

  it('two namespaces do not see each other', async () => {
    await using first = await TestNetns.create();
    await using second = await TestNetns.create();
    using one = Nftables.open({ netnsPath: first.path });
    using two = Nftables.open({ netnsPath: second.path });
    one.run('add table inet weft');
    expect(two.run('list tables')).toBe('');
    expect(one.run('list tables')).toBe('table inet weft\n');
  });
});
