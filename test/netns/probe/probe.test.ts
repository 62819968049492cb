// Probes between real hosts: what they measure, what they name when something is broken, and overlay mode `auto` by them.
import { afterEach, describe, expect, it } from 'vitest';

import { startProber } from '#agent/probe/prober.ts';
import type { Prober } from '#agent/probe/prober.ts';
import type { PeerPath } from '#agent/probe/scene.ts';
import { Lab, until } from '#test/netns/datapath/lab.ts';
import type { LabHost, Pod } from '#test/netns/datapath/lab.ts';
import { udpStream } from '#test/netns/datapath/stream.ts';

const log = { info: () => {}, warn: () => {} };

describe('probes', { timeout: 90_000 }, () => {
  let stack = new AsyncDisposableStack();
  afterEach(async () => {
    await stack.disposeAsync();
    stack = new AsyncDisposableStack();
  });

  function probe(host: LabHost, intervalMs = 300): Prober {
    const prober = startProber({
      scene: () => host.datapath.scene(),
      setDirect: (peers) => host.datapath.setDirect(peers),
      netnsPath: host.netns.path,
      intervalMs,
      log,
    });
    stack.defer(() => prober.stop());
    return prober;
  }

  const only = (prober: Prober): PeerPath | undefined => [...prober.paths().values()][0];
  const named = (prober: Prober): readonly string[] => prober.findings().map(({ name }) => name);

  it('measure round trip, loss and path MTU, and name what is broken', async () => {
    const lab = stack.use(await Lab.create(2));
    const [a, b] = [lab.host(0), lab.host(1)];
    const prober = probe(a);
    await until('a first round', async () => only(prober)?.pathMtuBytes === 1500, 10_000);
    expect(only(prober)).toMatchObject({ via: 'vxlan', lossPercent: 0, fullSize: true });
    expect(only(prober)?.rttMs).toBeGreaterThan(0);
    expect(only(prober)?.rttMs).toBeLessThan(1000);
    expect(prober.findings()).toEqual([]);

    await b.netns.exec([
      'sh',
      '-ec',
      `nft add table inet block; nft add chain inet block in '{ type filter hook input priority 0; }'; nft add rule inet block in udp dport 6784 drop`,
    ]);
    await until('the blocked port is named', async () => named(prober).includes('overlayBlocked'), 20_000);
    await b.netns.exec(['nft', 'delete', 'table', 'inet', 'block']);
    await until('it is well again', async () => named(prober).length === 0, 20_000);

    await b.netns.exec(['ip', 'link', 'set', 'eth0', 'down']);
    await until('the lost peer is named', async () => named(prober).includes('peerUnreachable'), 20_000);
    await b.netns.exec(['ip', 'link', 'set', 'eth0', 'up']);
    await until('it is back', async () => named(prober).length === 0, 20_000);
  });

  it('find that checksums are spoilt on the way', async () => {
    const lab = stack.use(await Lab.create(2));
    const b = lab.host(1).netns;
    const prober = probe(lab.host(0));
    // As a card does that fills in a wrong one: the receiver takes datagrams without a checksum, and drops the others.
    await b.exec([
      'sh',
      '-ec',
      `nft add table inet spoil; nft add chain inet spoil in '{ type filter hook prerouting priority -400; }'
       nft add rule inet spoil in iifname weft0 udp checksum != 0 drop`,
    ]);
    await until('it is named', async () => named(prober).includes('checksumFault'), 40_000);
    expect(named(prober)).toEqual(['checksumFault']);
    await b.exec(['nft', 'delete', 'table', 'inet', 'spoil']);
    await until('it is well again', async () => named(prober).length === 0, 40_000);
  });

  it('find a path MTU that is smaller on the way', async () => {
    const lab = stack.use(await Lab.create(2));
    const prober = probe(lab.host(0));
    for (const port of ['port0', 'port1']) await lab.wire.exec(['ip', 'link', 'set', port, 'mtu', '1400']);
    await until('the small MTU is named', async () => named(prober).includes('pathMtuTooSmall'), 60_000);
    const found = only(prober)?.pathMtuBytes ?? 0;
    // A bridge port lets frames with a VLAN tag's 4 bytes more through.
    expect(found).toBeGreaterThan(1391);
    expect(found).toBeLessThanOrEqual(1404);
  });

  /** Frames with pod addresses as source, which some fabrics drop. */
  async function fabricDropsPods(lab: Lab, on: boolean): Promise<void> {
    await lab.wire.exec(
      on
        ? [
            'sh',
            '-ec',
            `nft add table bridge fabric; nft add chain bridge fabric forward '{ type filter hook forward priority 0; }'; nft add rule bridge fabric forward ip saddr 10.32.0.0/12 drop`,
          ]
        : ['nft', 'delete', 'table', 'bridge', 'fabric'],
    );
  }

  const via = (probers: readonly Prober[]): readonly (string | undefined)[] =>
    probers.map((prober) => only(prober)?.via);
  const both = async (probers: readonly Prober[], what: string): Promise<void> =>
    until(`both are ${what}`, async () => via(probers).every((each) => each === what), 30_000);

  it('auto: direct once both directions are proven, VXLAN when the fabric drops pod addresses, and no packet lost by switching', async () => {
    const lab = stack.use(await Lab.create(2, { settings: { overlayMode: 'auto', comparePeriodMs: 500 } }));
    await fabricDropsPods(lab, true);
    const probers = lab.hosts.map((host) => probe(host));
    const pods: Pod[] = [];
    for (const host of lab.hosts) pods.push(await host.addPod());
    const [near, far] = pods as [Pod, Pod];
    await until('probes run', async () => probers.every((prober) => only(prober)?.rttMs !== undefined), 20_000);
    expect(via(probers)).toEqual(['vxlan', 'vxlan']);
    const streams = [await udpStream(near, far), await udpStream(far, near)];
    await fabricDropsPods(lab, false);
    await both(probers, 'direct');
    for (const stream of streams) expect(await stream.stop()).toMatchObject({ lost: 0 });

    await fabricDropsPods(lab, true);
    await both(probers, 'vxlan');
    const after = [await udpStream(near, far), await udpStream(far, near)];
    for (const stream of after) expect(await stream.stop()).toMatchObject({ lost: 0 });
  });

  it('auto: stays on VXLAN where the reverse path filter is strict', async () => {
    const sysctls = ['net.ipv4.conf.all.rp_filter=1', 'net.ipv4.conf.default.rp_filter=1'];
    const lab = stack.use(await Lab.create(2, { settings: { overlayMode: 'auto', comparePeriodMs: 500 }, sysctls }));
    const probers = lab.hosts.map((host) => probe(host));
    await until('many rounds', async () => probers.every((prober) => only(prober)?.rttMs !== undefined), 20_000);

    await until('direct requests were dropped', async () => (await reversePathDrops(lab.host(1))) > 5, 20_000);
    expect(via(probers)).toEqual(['vxlan', 'vxlan']);
  });
});

/** TcpExt IPReversePathFilter of a host. */
async function reversePathDrops(host: LabHost): Promise<number> {
  const lines = (await host.netns.exec(['cat', '/proc/net/netstat']))
    .split('\n')
    .filter((line) => line.startsWith('TcpExt:'));
  const [names = [], values = []] = lines.map((line) => line.split(' '));
  return Number(values[names.indexOf('IPReversePathFilter')] ?? 0);
}
