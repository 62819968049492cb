// What the firewall lets through and what it drops and counts, asked of nft itself.
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import type { TestNetns } from '#test/support/netns.ts';

import { counter, Lab, ping, until } from './lab.ts';
import type { Pod } from './lab.ts';

/** One UDP datagram of a VXLAN header's size. */
async function sendUdp(from: TestNetns, to: string, port: number): Promise<void> {
  await from.exec(['bash', '-c', `printf '\\x08\\0\\0\\0\\0\\x1a\\x80\\0' > /dev/udp/${to}/${port}`]);
}

/** A program that sends one datagram to the address and port behind it, from a port that a VXLAN device may have. */
function forge({ source, port = 9 }: { readonly source?: string; readonly port?: number }): string {
  const bound = source === undefined ? '' : `s.bind(("${source}", 0));`;
  const program = `import socket, sys; s = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP); ${bound}
s.sendto(int(${port}).to_bytes(2, "big") + int(sys.argv[2]).to_bytes(2, "big") + bytes([0, 9, 0, 0, 1]), (sys.argv[1], 0))`;
  return `python3 -c '${program}'`;
}

describe('firewall of two hosts', () => {
  let lab: Lab;
  let near: Pod;
  let far: Pod;

  beforeEach(async () => {
    lab = await Lab.create(2, { settings: { comparePeriodMs: 200, nonMasqueradeCidrs: ['203.0.113.0/24'] } });
    near = await lab.host(0).addPod();
    far = await lab.host(1).addPod();
  });
  afterEach(async () => lab[Symbol.asyncDispose]());

  it('drops and counts a pod that sends from an address that is not its own', async () => {
    const other = await lab.host(0).addPod();
    for (const stolen of ['10.32.0.77', other.lease.addresses[0] ?? '', '192.0.2.9']) {
      const before = await counter(lab.host(0).netns, 'pod_spoofed');
      await near.netns.exec(['ip', 'address', 'add', `${stolen}/32`, 'dev', 'eth0']);
      await expect(ping(near.netns, far.lease.addresses[0] ?? '', ['-W', '1', '-I', stolen])).rejects.toThrow();
      expect(await counter(lab.host(0).netns, 'pod_spoofed')).toBeGreaterThan(before);
      await near.netns.exec(['ip', 'address', 'del', `${stolen}/32`, 'dev', 'eth0']);
    }
    await ping(near.netns, far.lease.addresses[0] ?? '');
  });

  it('does not count what IPv6 says by itself on a pod link as spoofing', async () => {
    await until(
      'the pod link-local address is past duplicate detection',
      async () => !(await near.netns.exec(['ip', '-6', 'address'])).includes('tentative'),
    );
    expect(await counter(lab.host(0).netns, 'pod_spoofed')).toBe(0);
  });

  it('drops and counts VXLAN from a stranger, on every local address', async () => {
    await lab.outside.exec(['ip', 'route', 'add', '10.32.0.1/32', 'via', '192.0.2.1']);
    await sendUdp(lab.outside, '192.0.2.1', 6784);
    await sendUdp(lab.outside, '10.32.0.1', 6784);
    await sendUdp(near.netns, '169.254.1.1', 6784);
    expect(await counter(lab.host(0).netns, 'vxlan_stranger')).toBe(3);
    await sendUdp(lab.outside, '192.0.2.1', 6785);
    expect(await counter(lab.host(0).netns, 'vxlan_stranger')).toBe(3);
  });

  it('drops VXLAN that a pod sends with the address of a peer, to the node or to another', async () => {
    const { netns } = lab.host(0);
    await near.netns.exec(['ip', 'address', 'add', '192.0.2.2/32', 'dev', 'eth0']);
    const forged = forge({ source: '192.0.2.2' });
    await near.netns.exec(['bash', '-ec', `${forged} 169.254.1.1 6784`]);
    expect(await counter(netns, 'vxlan_stranger')).toBe(1);
    await near.netns.exec(['bash', '-ec', `${forged} 192.0.2.9 6784`]);
    expect(await counter(netns, 'pod_spoofed')).toBe(1);
  });

  it('drops VXLAN that comes out of the overlay for the node', async () => {
    await sendUdp(far.netns, lab.host(0).overlay, 6784);
    expect(await counter(lab.host(0).netns, 'vxlan_stranger')).toBe(1);
  });

  it('knows strangers and pods by name where the numbers of its links are not those of the rules', async () => {
    const { netns } = lab.host(0);
    await lab.host(0).stop();
    await netns.exec([
      'sh',
      '-ec',
      `nft -a list chain inet weft prerouting_raw | sed -nE 's/^[[:space:]]+iif "[a-z0-9]+" .*handle //p' |
       while read handle; do nft delete rule inet weft prerouting_raw handle $handle; done`,
    ]);
    expect(await netns.exec(['nft', 'list', 'chain', 'inet', 'weft', 'prerouting_raw'])).not.toContain('iif "');
    await ping(near.netns, far.lease.addresses[0] ?? '');
    await sendUdp(lab.outside, '192.0.2.1', 6784);
    await sendUdp(far.netns, lab.host(0).overlay, 6784);
    expect(await counter(netns, 'vxlan_stranger')).toBe(2);
    await sendUdp(near.netns, lab.host(1).underlay, 6784);
    expect(await counter(netns, 'vxlan_from_pod')).toBe(1);
  });

  it('drops VXLAN that a pod sends to a peer, which masquerade would give a peer address', async () => {
    await sendUdp(near.netns, lab.host(1).underlay, 6784);
    expect(await counter(lab.host(0).netns, 'vxlan_from_pod')).toBe(1);
  });

  it('drops VXLAN that a Service would send to a peer or to any node-to-be, not what it sends to a pod', async () => {
    const { netns } = lab.host(0);
    await netns.exec([
      'sh',
      '-ec',
      `nft add table inet services
       nft add chain inet services forward '{ type nat hook prerouting priority -100; }'
       nft add rule inet services forward udp dport 5000 dnat ip to ${lab.host(1).underlay}:6784
       nft add rule inet services forward udp dport 5001 dnat ip to 192.0.2.77:6784
       nft add rule inet services forward udp dport 5002 dnat ip to ${far.lease.addresses[0]}:6784
       nft add chain inet services seen '{ type filter hook postrouting priority 300; }'
       nft add counter inet services seen
       nft add rule inet services seen udp dport 6784 ct status dnat counter name seen`,
    ]);
    const seen = async (): Promise<string> => netns.exec(['nft', 'list', 'counter', 'inet', 'services', 'seen']);
    await sendUdp(near.netns, '198.51.100.1', 5000);
    await sendUdp(near.netns, '198.51.100.1', 5001);
    expect(await counter(netns, 'vxlan_from_pod')).toBe(2);
    expect(await seen()).toContain('packets 0');
    await sendUdp(near.netns, '198.51.100.1', 5002);
    expect(await counter(netns, 'vxlan_from_pod')).toBe(2);
    expect(await seen()).toContain('packets 1');
  });

  it('lets no connection begin at the VXLAN port of a peer: the answers would be believed there', async () => {
    const { netns } = lab.host(0);
    await lab.host(1).netns.exec(['bash', '-ec', `${forge({ port: 6784 })} 192.0.2.1 5000`]);
    expect(await counter(netns, 'vxlan_from_pod')).toBe(1);
    await lab.host(1).netns.exec(['bash', '-ec', `${forge({ port: 6783 })} 192.0.2.1 5000`]);
    expect(await counter(netns, 'vxlan_from_pod')).toBe(1);
  });

  it('keeps outer packets out of conntrack in both directions', async () => {
    const { netns } = lab.host(0);
    await netns.exec([
      'sh',
      '-ec',
      `nft add table inet seen
       nft add chain inet seen in '{ type filter hook input priority 0; }'
       nft add chain inet seen out '{ type filter hook output priority 0; }'
       for chain in in out; do
         nft add counter inet seen untracked_$chain; nft add counter inet seen tracked_$chain
         nft add rule inet seen $chain udp dport 6784 ct state untracked counter name untracked_$chain
         nft add rule inet seen $chain udp dport 6784 ct state != untracked counter name tracked_$chain
       done`,
    ]);
    await ping(near.netns, far.lease.addresses[0] ?? '');
    const listed = await netns.exec(['nft', 'list', 'counters', 'table', 'inet', 'seen']);
    const packets = Object.fromEntries(
      [...listed.matchAll(/counter (\w+) \{\s+packets (\d+)/g)].map((match) => [match[1], Number(match[2])]),
    );
    expect(packets).toEqual({ untracked_in: 1, tracked_in: 0, untracked_out: 1, tracked_out: 0 });
  });

  it('filters no reverse path on the overlay device, and loosely where the host would strictly', async () => {
    const { netns } = lab.host(0);
    const own = async (): Promise<string> =>
      (await netns.exec(['sysctl', '-n', 'net.ipv4.conf.weft0.rp_filter'])).trim();
    expect(await own()).toBe('0');
    await netns.exec(['sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1']);
    await until('it is loose', async () => (await own()) === '2');
    await netns.exec(['sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=0']);
    await until('it is off again', async () => (await own()) === '0');
  });

  it('leaves the source of traffic to non-masquerade ranges alone', async () => {
    await lab.outside.exec(['ip', 'address', 'add', '203.0.113.7/32', 'dev', 'lo']);
    await lab.outside.exec(['ip', 'route', 'add', '10.32.0.0/13', 'via', '192.0.2.1']);
    await lab.outside.exec([
      'sh',
      '-ec',
      `nft add table inet seen; nft add chain inet seen input '{ type filter hook input priority 0; }'
       nft add counter inet seen pod; nft add counter inet seen node
       nft add rule inet seen input ip saddr ${near.lease.addresses[0]} counter name pod
       nft add rule inet seen input ip saddr 192.0.2.1 icmp type echo-request counter name node`,
    ]);
    await ping(near.netns, '203.0.113.7');
    await ping(near.netns, '192.0.2.200');
    const listed = await lab.outside.exec(['nft', 'list', 'counters', 'table', 'inet', 'seen']);
    expect([...listed.matchAll(/packets (\d+)/g)].map((match) => Number(match[1]))).toEqual([1, 1]);
  });

  it('a removed pod neither sends nor receives, while its link still waits for deletion', async () => {
    await using slow = await Lab.create(2, { settings: { reapQuietMs: 60_000, reapLatestMs: 60_000 } });
    const pod = await slow.host(0).addPod();
    const peer = await slow.host(1).addPod();
    await ping(pod.netns, peer.lease.addresses[0] ?? '');
    await slow.host(0).removePod(pod);
    await pod.netns.exec(['ip', 'link', 'show', 'eth0']);
    await expect(ping(pod.netns, peer.lease.addresses[0] ?? '', ['-W', '1'])).rejects.toThrow();
    await expect(ping(peer.netns, pod.lease.addresses[0] ?? '', ['-W', '1'])).rejects.toThrow();
    expect(await counter(slow.host(0).netns, 'pod_spoofed')).toBeGreaterThan(0);
  });
});
