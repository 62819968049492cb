// Many peers: how long programming them takes from nothing, for one more, and for a comparison that finds nothing to do.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

import { Lab } from './lab.ts';

const count = 5000;

/** Peers with addresses of 198.18.0.0/15 (benchmarking, RFC 2544) and a /25 each out of 10.40.0.0/13. */
function manyPeers(from: number, to: number): readonly PeerView[] {
  return Array.from({ length: to - from }, (_, index) => {
    const number = from + index;
    const block = number * 128;
    return {
      name: `node${String(number).padStart(5, '0')}.0123abcd`,
      nodeName: `node${number}`,
      self: false,
      underlayAddress: `198.18.${number >> 8}.${number & 255}`,
      overlayAddresses: [],
      blocks: [`10.${40 + (block >> 16)}.${(block >> 8) & 255}.${block & 255}/25`],
    };
  });
}

describe(`${count} peers`, () => {
  let lab: Lab;
  const times: Record<string, string> = {};

  async function timed(what: string, peers: number): Promise<void> {
    lab.viewPatch = (view): IpamView => ({ ...view, peers: [...view.peers, ...manyPeers(1, peers + 1)] });
    const view = lab.host(0).view();
    const began = performance.now();
    const cpu = process.cpuUsage();
    await lab.host(0).datapath.reconcile(view, []);
    const { user, system } = process.cpuUsage(cpu);
    times[what] = `${(performance.now() - began).toFixed(0)} ms, CPU ${((user + system) / 1000).toFixed(0)} ms`;
  }

  beforeAll(async () => {
    lab = await Lab.create(1);
  });
  afterAll(async () => lab[Symbol.asyncDispose]());

  it('are programmed, compared, extended and removed', async () => {
    await timed('from nothing', count);
    expect(lab.host(0).datapath.status()).toMatchObject({ ready: true, findings: [] });
    expect(lab.host(0).peersProgrammed()).toBe(count);
    const { netns } = lab.host(0);
    expect((await netns.exec(['ip', 'nexthop'])).trim().split('\n')).toHaveLength(count);
    expect((await netns.exec(['bridge', 'fdb', 'show', 'dev', 'weft0'])).trim().split('\n')).toHaveLength(count);
    await timed('compared', count);
    await timed('one more', count + 1);
    await timed('one gone', count);
    expect(lab.host(0).peersProgrammed()).toBe(count);
    await timed('all gone', 0);
    expect((await netns.exec(['ip', 'nexthop'])).trim()).toBe('');
    console.log(JSON.stringify(times));
  });
});
