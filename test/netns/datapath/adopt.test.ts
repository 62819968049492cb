// A new agent adopts what its predecessor left, heals what somebody altered, and touches nothing else; numbered streams run all the while.
import { spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';

import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';

import type { IpamView } from '#agent/runtime/ipam.ts';
import type { TestNetns } from '#test/support/netns.ts';
import { programPath } from '#test/support/programs.ts';

import { Lab, ping, snapshot, until } from './lab.ts';
import type { LabHost, Pod } from './lab.ts';
import { udpStream } from './stream.ts';

/**
 * Echo requests every 10 ms, for who answers nothing else; pods have numbered UDP at 1 kHz into a buffer that holds whatever a busy
 * machine keeps waiting. `stop` waits for a few more answers and counts those that stay missing before them: ping's own count takes
 * what is still under way for lost.
 */
function pingStream(from: TestNetns, to: string): { stop(): Promise<{ answered: number; lost: number }> } {
  const child = spawn('nsenter', [`--net=${from.path}`, '--', 'ping', '-n', '-i', '0.01', to], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  const answers = (): readonly number[] =>
    [...output.matchAll(/bytes from .* icmp_seq=(\d+)/g)].map((match) => Number(match[1]));
  const gaps = (below: number): number => below - new Set(answers().filter((number) => number <= below)).size;
  return {
    async stop() {
      const last = Math.max(0, ...answers()) + 10;
      await until('ping gets further answers', async () => Math.max(0, ...answers()) > last);
      await until('late answers are in', async () => gaps(last) === 0, 10_000).catch(() => undefined);
      const result = { answered: last - gaps(last), lost: gaps(last) };
      child.kill('SIGINT');
      await once(child, 'close');
      return result;
    },
  };
}

function startAgent(host: LabHost): { readonly child: ChildProcess; readonly ready: Promise<unknown> } {
  const input = JSON.stringify({ view: host.view(), leases: host.leases }, (_key, value: unknown) =>
    typeof value === 'bigint' ? String(value) : value,
  );
  const child = spawn(
    'nsenter',
    [`--net=${host.netns.path}`, '--', process.execPath, programPath('agent-process'), input],
    {
      stdio: ['ignore', 'pipe', 'inherit'],
    },
  );
  return { child, ready: once(child.stdout, 'data') };
}

/** The snapshot with everything that changes when an object is made anew: ifindexes, nft handles. */
async function identity(netns: TestNetns): Promise<string> {
  return `${await snapshot(netns)}\n${await netns.exec(['nft', '-a', '-s', 'list', 'table', 'inet', 'weft'])}`;
}

describe('two hosts with a pod each', () => {
  let lab: Lab;
  let host: LabHost;
  let near: Pod;
  let far: Pod;

  beforeEach(async () => {
    lab = await Lab.create(2, { settings: { comparePeriodMs: 300 } });
    host = lab.host(0);
    near = await host.addPod();
    far = await lab.host(1).addPod();
  });
  afterEach(async () => lab[Symbol.asyncDispose]());

  it('rounds without a change write nothing', async () => {
    await host.reconcile();
    const before = await identity(host.netns);
    for (let round = 0; round < 3; round++) await host.reconcile();
    expect(host.datapath.status().repairs).toBe(0);
    expect(await identity(host.netns)).toBe(before);
  });

  it('a datapath thrown away and made anew adopts everything; no packet is lost', async () => {
    const before = await identity(host.netns);
    const streams = [await udpStream(near, far), await udpStream(far, near)];
    const beyond = pingStream(near.netns, '192.0.2.200');
    for (let restart = 0; restart < 25; restart++) {
      await host.stop();
      await host.start();
    }
    for (const stream of streams) expect(await stream.stop()).toMatchObject({ lost: 0 });
    const { answered, lost } = await beyond.stop();
    expect(answered).toBeGreaterThan(10);
    expect(lost).toBe(0);
    expect(await identity(host.netns)).toBe(before);
    expect(await host.datapath.check(near.request)).toEqual([]);
  });

  it('an agent killed with -9 at any moment and started again: no packet is lost', async () => {
    await host.stop();
    const before = await identity(host.netns);
    const [stream, back] = [await udpStream(near, far), await udpStream(far, near)];
    // How long a start takes is the machine's business: the first is waited for, the others die in its tenths.
    let startMs = 0;
    for (let tenth = 0; tenth <= 10; tenth++) {
      const began = performance.now();
      const agent = startAgent(host);
      if (tenth === 0) await agent.ready;
      else await new Promise((resolve) => setTimeout(resolve, (startMs * tenth) / 10));
      if (tenth === 0) startMs = performance.now() - began;
      agent.child.kill('SIGKILL');
      await once(agent.child, 'close');
    }
    const [there, here] = [await stream.stop(), await back.stop()];
    expect([there.lost, here.lost]).toEqual([0, 0]);
    expect(there.sent).toBeGreaterThan(300);
    expect(await identity(host.netns)).toBe(before);
    await host.start();
  });

  it('links without a lease, whole, half-built or doomed, are gone after a start; the leased one stays', async () => {
    const second = await host.addPod();
    await host.stop();
    host.forget(second.lease);
    await host.netns.exec(['ip', 'link', 'add', 'weftphalf', 'type', 'veth', 'peer', 'name', 'weftother']);
    await host.netns.exec(['ip', 'link', 'add', 'weftpdoomed', 'type', 'veth', 'peer', 'name', 'weftthird']);
    await host.netns.exec(['ip', 'link', 'set', 'weftpdoomed', 'group', '1463112276']);
    await host.start();
    await host.datapath.drained();
    const links = await host.netns.json<readonly { ifname: string }[]>(['ip', '-j', 'link']);
    expect(
      links
        .map(({ ifname }) => ifname)
        .filter((ifname) => ifname.startsWith('weft'))
        .toSorted(),
    ).toEqual([near.link.hostIfname, 'weft0'].toSorted());
    const sources = await host.netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'sources4']);
    expect(sources).not.toContain(second.lease.addresses[0]);
    await ping(near.netns, far.lease.addresses[0] ?? '');
  });

  it.each([
    ['another kind of link', 'bridge'],
    ['another VNI', 'vxlan id 7 dstport 6784 local 192.0.2.1 nolearning'],
    ['another port', 'vxlan id 6784 dstport 4789 local 192.0.2.1 nolearning'],
    ['another local address', 'vxlan id 6784 dstport 6784 local 192.0.2.200 nolearning'],
    ['learning on', 'vxlan id 6784 dstport 6784 local 192.0.2.1'],
  ])('makes the overlay device anew where the predecessor left %s', async (_what, kind) => {
    const before = await snapshot(host.netns);
    await host.stop();
    await host.netns.exec(['sh', '-ec', `ip link del weft0; ip link add weft0 type ${kind}; ip link set weft0 up`]);
    await host.start();
    expect(sorted(await snapshot(host.netns))).toBe(sorted(before));
    await ping(near.netns, far.lease.addresses[0] ?? '');
  });

  it('survives an MTU below what IPv6 needs', async () => {
    await host.netns.exec(['ip', 'link', 'set', 'weft0', 'mtu', '1200']);
    await until('weft0 has 1450', async () =>
      (await host.netns.exec(['ip', 'link', 'show', 'weft0'])).includes('mtu 1450'),
    );
    await until('reachable', async () =>
      ping(near.netns, far.lease.addresses[0] ?? '').then(
        () => true,
        () => false,
      ),
    );
    await host.netns.exec(['ip', 'link', 'set', 'eth0', 'mtu', '1280']);
    await until('weft0 has 1230', async () =>
      (await host.netns.exec(['ip', 'link', 'show', 'weft0'])).includes('mtu 1230'),
    );
    await until('reachable', async () =>
      ping(near.netns, far.lease.addresses[0] ?? '').then(
        () => true,
        () => false,
      ),
    );
    expect(host.datapath.status().findings).toEqual([]);
  });

  it('touches nothing foreign', async () => {
    await host.netns.exec([
      'sh',
      '-ec',
      `ip link add foreign0 type bridge; ip link set foreign0 up; ip address add 198.51.100.1/24 dev foreign0
       ip nexthop add id 1463091201 dev foreign0; ip nexthop add id 5 via 198.51.100.2 dev foreign0
       ip route add 203.0.113.0/24 nhid 5; ip route add 10.33.0.0/16 via 198.51.100.3 proto 88
       ip neigh add 198.51.100.2 lladdr 02:00:00:00:00:09 dev foreign0 nud permanent
       nft add table inet other; nft add chain inet other forward '{ type filter hook forward priority 5; }'`,
    ]);
    const before = foreign(await snapshot(host.netns));
    await host.stop();
    await host.start();
    await host.netns.exec(['ip', 'link', 'del', 'weft0']);
    await until('weft0 is back', async () => (await host.netns.exec(['ip', 'link'])).includes('weft0'));
    await host.reconcile();
    expect(foreign(await snapshot(host.netns))).toBe(before);
  });

  it('names a foreign route of the same prefix, leaves it, and takes its place when it goes', async () => {
    const original = lab.viewPatch;
    await host.netns.exec(['ip', 'route', 'add', '10.42.0.0/16', 'via', '192.0.2.200']);
    lab.viewPatch = (view): IpamView => ({
      ...view,
      peers: view.peers.map((peer) => (peer.self ? peer : { ...peer, blocks: [...peer.blocks, '10.42.0.0/16'] })),
    });
    await host.reconcile();
    expect(host.datapath.status()).toMatchObject({
      ready: true,
      findings: [{ name: 'routeConflict', subject: '10.42.0.0/16' }],
    });
    const route = async (): Promise<string> => host.netns.exec(['ip', 'route', 'show', '10.42.0.0/16']);
    expect(await route()).toContain('via 192.0.2.200');
    await host.netns.exec(['ip', 'route', 'del', '10.42.0.0/16']);
    await until('our route is there', async () => (await route()).includes('proto 87'));
    await until('no finding', async () => host.datapath.status().findings.length === 0);
    lab.viewPatch = original;
  });

  it('follows the MTU of the underlay link, for running pods and later ones, but not where tuning made it smaller', async () => {
    const tuned = await host.addPod();
    await tuned.netns.exec(['ip', 'link', 'set', 'eth0', 'mtu', '1200']);
    const mtuOf = async (netns: TestNetns, ifname: string): Promise<string> =>
      /mtu (\d+)/.exec(await netns.exec(['ip', 'link', 'show', ifname]))?.[1] ?? '';
    for (const [underlay, overlay] of [
      ['1400', '1350'],
      ['1480', '1430'],
    ] as const) {
      for (const { netns } of lab.hosts) await netns.exec(['ip', 'link', 'set', 'eth0', 'mtu', underlay]);
      for (const [at, pod] of [near, far].entries()) {
        await until('both ends have it', async () =>
          [await mtuOf(lab.host(at).netns, pod.link.hostIfname), await mtuOf(pod.netns, 'eth0')].every(
            (mtu) => mtu === overlay,
          ),
        );
      }
      await until('so has the device', async () => (await mtuOf(host.netns, 'weft0')) === overlay);
      await ping(near.netns, far.lease.addresses[0] ?? '', ['-M', 'do', '-s', String(Number(overlay) - 28)]);
      expect(await mtuOf(tuned.netns, 'eth0')).toBe('1200');
      expect((await host.addPod()).link.mtuBytes).toBe(Number(overlay));
      expect(await host.datapath.check(tuned.request)).toEqual([]);
    }
  });

  it('a peer that goes loses its objects; one that comes back gets them', async () => {
    const withPeers = lab.viewPatch;
    lab.viewPatch = (view): IpamView => ({ ...view, peers: view.peers.filter((peer) => peer.self) });
    await host.reconcile();
    expect(await host.netns.exec(['ip', 'nexthop'])).toBe('');
    expect(await host.netns.exec(['bridge', 'fdb', 'show', 'dev', 'weft0'])).toBe('');
    expect(await host.netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'peers4'])).not.toContain('192.0.2.2');
    await expect(ping(near.netns, far.lease.addresses[0] ?? '', ['-W', '1'])).rejects.toThrow();
    lab.viewPatch = withPeers;
    await host.reconcile();
    await ping(near.netns, far.lease.addresses[0] ?? '');
  });

  it('changes of blocks and of the own overlay address lose no packet', async () => {
    const [stream, back] = [await udpStream(near, far), await udpStream(far, near)];
    const original = lab.viewPatch;
    for (let round = 0; round < 50; round++) {
      const odd = round % 2 === 1;
      lab.viewPatch = (view): IpamView => ({
        ...view,
        overlayAddresses: odd ? ['10.32.0.2'] : view.overlayAddresses,
        peers: view.peers.map((peer) =>
          peer.self || odd ? peer : { ...peer, blocks: ['10.40.0.0/15', '10.42.0.0/15'] },
        ),
      });
      await host.reconcile();
    }
    for (const end of [stream, back]) expect(await end.stop()).toMatchObject({ lost: 0 });
    lab.viewPatch = original;
    await host.reconcile();
  });

  it('waits, says for what, and adopts once the underlay address is there', async () => {
    await host.netns.exec(['ip', 'address', 'del', '192.0.2.1/24', 'dev', 'eth0']);
    await until('not ready', async () => !host.datapath.status().ready);
    expect(host.datapath.status().waitingFor).toContain('192.0.2.1');
    await host.netns.exec(['ip', 'address', 'add', '192.0.2.1/24', 'dev', 'eth0']);
    await until('ready again', async () => host.datapath.status().ready);
    await ping(near.netns, far.lease.addresses[0] ?? '');
  });
});

describe('what somebody altered is as before within a moment', () => {
  let lab: Lab;
  let host: LabHost;
  let near: Pod;
  let far: Pod;

  beforeAll(async () => {
    lab = await Lab.create(2, { settings: { comparePeriodMs: 60_000 } });
    host = lab.host(0);
    near = await host.addPod();
    far = await lab.host(1).addPod();
  });
  afterAll(async () => lab[Symbol.asyncDispose]());

  const faults: readonly (readonly [string, string])[] = [
    ['the overlay device deleted', 'ip link del weft0'],
    ['the overlay device down', 'ip link set weft0 down'],
    ['its MTU changed', 'ip link set weft0 mtu 1300'],
    ['its MAC changed', 'ip link set weft0 address 02:00:00:00:00:01'],
    ['its address deleted', 'ip address del 10.32.0.1/32 dev weft0'],
    ['its reverse path filter changed', 'sysctl -qw net.ipv4.conf.weft0.rp_filter=1'],
    ['a block route deleted', 'ip route del 10.40.0.0/14 proto 87 metric 0'],
    ['a block route replaced', 'ip route replace 10.40.0.0/14 dev weft0 proto 87'],
    ['an unreachable route deleted', 'ip route del unreachable 10.40.0.0/14 metric 4294967295'],
    ['a pod route deleted', 'ip route del 10.32.0.10'],
    [
      'every route of ours deleted',
      // `ip route flush` refuses routes of nexthop objects.
      `for route in 10.32.0.10 '10.40.0.0/14 metric 0' 'unreachable 10.32.0.0/13 metric 0' \
         'unreachable 10.32.0.0/13 metric 4294967295' 'unreachable 10.40.0.0/14 metric 4294967295' \
         'unreachable 10.44.0.0/15 metric 4294967295' 'unreachable 10.46.0.0/16 metric 4294967295'; do
         ip route del $route || true; done`,
    ],
    ['the nexthops deleted', 'ip nexthop flush proto 87'],
    ['a neighbour deleted', 'ip neigh flush dev weft0 nud permanent'],
    [
      'the FDB entry replaced',
      'MAC=$(bridge fdb show dev weft0 | cut -d" " -f1); bridge fdb replace $MAC dev weft0 dst 192.0.2.77',
    ],
    [
      'the FDB entry deleted',
      'MAC=$(bridge fdb show dev weft0 | cut -d" " -f1); bridge fdb del $MAC dev weft0 dst 192.0.2.2',
    ],
    ['the table deleted', 'nft delete table inet weft'],
    ['a chain flushed', 'nft flush chain inet weft pod_stranger'],
    ['a rule inserted', 'nft insert rule inet weft prerouting_raw drop'],
    ['a policy changed', 'nft chain inet weft prerouting_raw "{ policy drop; }"'],
    ['peers flushed', 'nft flush set inet weft peers4'],
    ['sources flushed', 'nft flush set inet weft sources4'],
    ['a source of a link that is not there', 'nft add element inet weft sources4 "{ 4711 . 10.32.0.99 }"'],
    ["a source of a link that is no pod's", 'nft add element inet weft sources4 "{ lo . 10.32.0.99 }"'],
    ['a stranger among the peers', 'nft add element inet weft peers4 "{ 192.0.2.66 }"'],
    ["a pod link's MTU changed", 'ip link set HOST mtu 1300'],
    ['a pod link down', 'ip link set HOST down'],
    ['the gateway address deleted', 'ip address del 169.254.1.1/32 dev HOST'],
    ['the MAC of a host end changed', 'ip link set HOST address 02:00:00:00:00:02'],
    ['forwarding switched off', 'sysctl -qw net.ipv4.ip_forward=0'],
    ['a route of our protocol that nobody wants', 'ip route add 198.51.100.0/24 dev weft0 proto 87'],
    ['a nexthop of our protocol that nobody wants', 'ip nexthop add id 99 via fe80::9 dev weft0 onlink protocol 87'],
  ];
  it.each(faults)('%s', async (_what, command) => {
    const before = await snapshot(host.netns);
    await host.netns.exec(['sh', '-ec', command.replaceAll('HOST', near.link.hostIfname)]);
    const asBefore = async (): Promise<boolean> => sorted(await snapshot(host.netns)) === sorted(before);
    // No notification tells of a sysctl.
    const withinMs = /sysctl/.test(command) ? 10_000 : 3000;
    await until('the namespace is as before', asBefore, withinMs).catch(async () =>
      expect(sorted(await snapshot(host.netns))).toBe(sorted(before)),
    );
    await ping(near.netns, far.lease.addresses[0] ?? '');
    await ping(far.netns, near.lease.addresses[0] ?? '');
  });
});

/** Lines about what this test made and Weft did not. */
function foreign(text: string): string {
  return text
    .split('\n')
    .filter((line) => /foreign0|198\.51|203\.0|10\.33|other/.test(line))
    .join('\n');
}

/** Objects made anew are listed elsewhere and with other numbers. */
function sorted(text: string): string {
  const lines = text.replaceAll(/^\d+: /gm, '').replaceAll(/\b(nhid|id) 14\d{8}\b/g, '$1 ID');
  return lines.split('\n').toSorted().join('\n');
}
