// Direct routes over an IPv6 underlay, pods of both families: IPv4 blocks have an IPv6 gateway then (RFC 5549). What goes where, and that
// switching loses nothing of either family.
import { afterEach, describe, expect, it } from 'vitest';

import { Lab, ping, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';
import { udpStream } from './stream.ts';

/** The link that packets to these addresses leave by. */
async function goesVia(host: LabHost, addresses: readonly string[]): Promise<readonly string[]> {
  const routes = await Promise.all(addresses.map((address) => host.netns.exec(['ip', 'route', 'get', address])));
  return routes.map((route) => /dev (\S+)/.exec(route)?.[1] ?? '');
}

const admitted = async ({ netns }: LabHost): Promise<boolean> => {
  const sets = await Promise.all(
    ['direct4', 'direct6'].map((set) => netns.exec(['nft', 'list', 'set', 'inet', 'weft', set])),
  );
  return sets.every((text) => text.includes('elements'));
};

describe('direct routes over IPv6', () => {
  let lab: Lab | undefined;
  afterEach(async () => {
    await lab?.[Symbol.asyncDispose]();
    lab = undefined;
  });

  async function twoPods(overlayMode: 'direct' | 'auto'): Promise<readonly [LabHost, LabHost, Pod, Pod]> {
    const made = await Lab.create(2, {
      families: [4, 6],
      underlay: 6,
      settings: { comparePeriodMs: 300, overlayMode },
    });
    lab = made;
    const [a, b] = [made.host(0), made.host(1)];
    const pods = [await a.addPod(), await b.addPod()] as const;
    for (const host of made.hosts) await until('link addresses are admitted', () => admitted(host));
    return [a, b, ...pods];
  }

  it('mode direct: both families leave by the underlay link, and pods and hosts reach each other', async () => {
    const [a, b, near, far] = await twoPods('direct');
    expect(await goesVia(a, far.lease.addresses)).toEqual(['eth0', 'eth0']);
    expect(await goesVia(b, near.lease.addresses)).toEqual(['eth0', 'eth0']);
    for (const [from, to] of [
      [near.netns, far],
      [far.netns, near],
      [a.netns, far],
    ] as const) {
      for (const address of to.lease.addresses) await ping(from, address);
    }
    for (const host of [a, b]) expect(host.datapath.status()).toMatchObject({ ready: true, findings: [] });
  });

  it(
    'mode auto: switches there and back, one side after the other, and loses no packet',
    { timeout: 60_000 },
    async () => {
      const [a, b, near, far] = await twoPods('auto');
      expect(await goesVia(a, far.lease.addresses)).toEqual(['weft0', 'weft0']);
      const [nameA = '', nameB = ''] = a.view().peers.map(({ name }) => name);
      const streams = [];
      for (const family of [0, 1]) streams.push(await udpStream(near, far, family), await udpStream(far, near, family));
      for (let round = 0; round < 6; round++) {
        const on = round % 2 === 0;
        const expected = on ? 'eth0' : 'weft0';
        await a.datapath.setDirect(new Set(on ? [nameB] : []));
        expect(await goesVia(a, far.lease.addresses)).toEqual([expected, expected]);
        await b.datapath.setDirect(new Set(on ? [nameA] : []));
      }
      for (const stream of streams) expect(await stream.stop()).toMatchObject({ lost: 0 });
    },
  );
});
