// `weft clean` on a host on which a real agent served a pod: afterwards the host is as it was before, down to each rule and file, but
// for what somebody else has put there.
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { describe, expect, it } from 'vitest';

import { AgentHost } from '#test/support/agent-host.ts';
import { TestNetns } from '#test/support/netns.ts';
import { programPath } from '#test/support/programs.ts';

const weft = programPath('weft');

/** Everything that a host's network is made of, in the tools' own words, without counters. */
async function everything(netns: TestNetns): Promise<string> {
  const words = await Promise.all([
    netns.exec(['ip', '-d', 'address']),
    netns.exec(['ip', 'route', 'show', 'table', 'all']),
    netns.exec(['ip', '-6', 'route', 'show', 'table', 'all']),
    netns.exec(['ip', 'rule']),
    netns.exec(['ip', 'nexthop']),
    netns.exec(['ip', 'neigh', 'show', 'nud', 'permanent']),
    netns.exec(['bridge', 'fdb']),
    netns.exec(['nft', '-s', 'list', 'ruleset']),
    netns.exec(['iptables-legacy', '-S']),
  ]);
  return words.join('\n').replaceAll(/(valid_lft|preferred_lft|expires) \w+/g, '');
}

describe('weft clean', { timeout: 60_000 }, () => {
  it('removes all that the agent made and nothing else; refuses while the agent runs', async () => {
    await using host = await AgentHost.create('own netns');
    await using pod = await TestNetns.create('pod');
    const { netns, directory } = host;
    if (netns === undefined) throw new Error('the host has a namespace');
    const config = join(directory, 'config.json');
    const clean = async (...options: readonly string[]): Promise<string> =>
      netns.exec([process.execPath, weft, 'clean', '--config', config, ...options]);
    await netns.exec([
      'sh',
      '-ec',
      `ip link add foreign0 type veth peer name foreign1; ip address add 198.51.100.1/24 dev foreign0; ip link set foreign0 addrgenmode none up
       ip link set foreign1 addrgenmode none up
       ip route add 203.0.113.0/24 via 198.51.100.9; ip nexthop add id 7 via 198.51.100.9 dev foreign0
       nft add table ip filter; nft add chain ip filter FORWARD '{ type filter hook forward priority 0; policy drop; }'
       nft add rule ip filter FORWARD iifname docker0 accept
       iptables-legacy -P FORWARD DROP; iptables-legacy -A FORWARD -i docker0 -j ACCEPT
       sysctl -qw net.ipv6.conf.all.disable_ipv6=1`,
    ]);
    const before = await everything(netns);
    await host.start();
    const bandwidth = { ingressRate: 1e9, ingressBurst: 1e8, egressRate: 1e9, egressBurst: 1e8 };
    expect((await host.cni('ADD', { netns: pod.path, conf: { runtimeConfig: { bandwidth } } })).code).toBe(0);
    expect(await netns.exec(['ip', '-d', 'link'])).toContain('ifb');
    await netns.exec([process.execPath, weft, 'install', join(directory, 'bin')]);
    await writeFile(join(directory, 'state', 'notes.txt'), 'mine');
    expect(await everything(netns)).not.toBe(before);
    await expect(clean()).rejects.toThrow(/an agent serves .*stop it first/);
    // One that only starts has no socket yet.
    await rm(host.socketPath);
    await expect(clean()).rejects.toThrow(/an agent has .*state open; stop it first/);
    expect(await netns.exec(['ip', 'link', 'show', 'weft0'])).toContain('weft0');
    await host.stop('SIGKILL');
    // What a check of the kernel leaves that is killed.
    await netns.exec(['ip', 'link', 'add', 'weft-check0', 'type', 'vxlan', 'id', '1', 'dstport', '49151']);
    await netns.exec(['nft', 'add', 'table', 'inet', 'weft_check;', 'add', 'chain', 'inet', 'weft_check', 'raw']);

    const told = await clean('--dry-run');
    expect(told).toContain('link weft0');
    expect(told).toContain('nftables table inet weft');
    expect(await netns.exec(['ip', 'link', 'show', 'weft0'])).toContain('weft0');

    for (const killAfterMs of [150, 250, 350, 450]) {
      const child = spawn('nsenter', [`--net=${netns.path}`, process.execPath, weft, 'clean', '--config', config]);
      const ended = once(child, 'exit');
      await Promise.race([ended, sleep(killAfterMs)]);
      child.kill('SIGKILL');
      await ended;
    }
    // Two at once, after those that were killed.
    await Promise.all([clean(), clean()]);
    expect(await clean()).toContain(`kept: ${join(directory, 'state')} holds notes.txt`);
    expect(await everything(netns)).toBe(before);
    expect(await readdir(join(directory, 'state'))).toEqual(['notes.txt']);
    expect(await readdir(join(directory, 'bin'))).not.toContain('weft');
    expect(await readdir(join(directory, 'net.d'))).toEqual([]);
    expect(await clean()).toContain('notes.txt');
    expect(await clean()).not.toContain('link');
  });
});
