// The agent as a process, as the image has it (one bundled file), on a node with 110 pods among 3, 1,000 and 5,000 nodes: how long from
// its start until it serves, resident memory, and CPU and wake-ups while nothing happens. Twice:
//
//   idle     a quiet cluster: the agent is the only voter, the other nodes' records are on its disk (written there while it is stopped),
//            and one namespace plays all the other nodes: it answers every probe, through the overlay
//   cut off  the peers come from the agent's own copy on disk, as after a restart while the registry is away: it keeps trying to reach
//            two voters that do not exist, and probes peers that no route leads to

import { readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { openVoterStore } from '#agent/registry/peers/store.ts';
import { recordKey } from '#agent/registry/peers/wire.ts';
import type { PeerView } from '#agent/runtime/ipam.ts';
import { startsBundled } from '#test/bench/bundled.ts';
import { type Figures, rounded } from '#test/bench/figures.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import { wakeUpsOf } from '#test/support/wake-ups.ts';

const pods = 110;
const nodeCounts = [3, 1000, 5000] as const;
/** A start ends with the second check of the host, a minute after the first. */
const settleMs = 65_000;
/** One check of the host is in it. */
const idleMs = 60_000;
/** USER_HZ. */
const ticksPerSecond = 100;
const [peerNetwork, gateway] = ['198.18.0.0/15', '192.168.50.254'];

export async function benchAgent(say: (line: string) => void): Promise<Figures> {
  await using host = await AgentHost.create('here');
  await startsBundled(host);
  await host.start();
  say(`${pods} pods …`);
  for (let pod = 0; pod < pods; pod++) {
    await run(['ip', 'netns', 'add', `pod-${pod}`]);
    const { code, stdout } = await host.cni('ADD', { netns: `/run/netns/pod-${pod}` });
    if (code !== 0) throw new Error(`ADD of pod ${pod} failed: ${stdout}`);
  }
  await using _others = await playOthers();
  await host.stop();
  const nodes = ['1', '2', '3'].map((at) => ({ name: `host${at}`, addresses: [`192.168.50.${at}`] }));
  const cutOff = { ...host.settings, nodes, voters: nodes.map(({ name }) => name) };
  const figures: Record<string, Figures> = {};
  for (const count of nodeCounts) {
    say(`${count} nodes, idle …`);
    putRecords(join(host.directory, 'state/voter.db'), peers(count - 1));
    await rm(join(host.directory, 'state/peers.json'), { force: true });
    await run(['ip', 'route', 'replace', peerNetwork, 'via', gateway]);
    const idle = await measure(host, host.settings, count - 1);
    say(JSON.stringify(idle));
    say(`${count} nodes, cut off …`);
    await writeFile(join(host.directory, 'state/peers.json'), JSON.stringify(peers(count - 1)));
    await run(['ip', 'route', 'del', peerNetwork]);
    const alone = await measure(host, cutOff, count - 1);
    say(JSON.stringify(alone));
    figures[count] = { ...idle, cutOff: alone };
  }
  return { agent: figures };
}

async function measure(host: AgentHost, settings: object, peerCount: number): Promise<Figures> {
  await writeFile(join(host.directory, 'config.json'), JSON.stringify(settings));
  const began = performance.now();
  await host.start();
  const startMs = performance.now() - began;
  await programmed(host, peerCount);
  await sleep(settleMs);
  const before = await usage(host);
  const from = performance.now();
  await sleep(idleMs);
  const after = await usage(host);
  const seconds = (performance.now() - from) / 1000;
  const idleCpuPercent = rounded(((after.cpuSeconds - before.cpuSeconds) / seconds) * 100);
  const wakeUpsPerSecond = rounded((after.wakeUps - before.wakeUps) / seconds);
  const rss = rounded(await rssMegabytes(host));
  await host.stop();
  return { startMs: rounded(startMs), rssMegabytes: rss, idleCpuPercent, wakeUpsPerSecond };
}

/** Outside the own range, which the one founder owns whole. */
function peers(count: number): readonly PeerView[] {
  return Array.from({ length: count }, (_, index): PeerView => {
    const number = index + 1;
    const first = number * 128;
    return {
      name: `node${String(number).padStart(5, '0')}.0123abcd`,
      nodeName: `node${number}`,
      self: false,
      underlayAddress: `198.18.${number >> 8}.${number & 255}`,
      overlayAddresses: [`100.${64 + (first >> 16)}.${(first >> 8) & 255}.${(first & 255) + 1}`],
      blocks: [`100.${64 + (first >> 16)}.${(first >> 8) & 255}.${first & 255}/25`],
    };
  });
}

/** Puts the records that these peers' agents would have written onto the disk of the one voter, which must not run. */
function putRecords(path: string, others: readonly PeerView[]): void {
  using store = openVoterStore(path);
  store.commit(() => {
    for (const { name, nodeName, underlayAddress, overlayAddresses, blocks } of others) {
      const ballot = { counter: 1, proposer: `bench.${nodeName}` };
      const version = `${ballot.counter}.${ballot.proposer}`;
      const value = {
        schema: 1,
        node: { name: nodeName, uid: `0123abcd-0000-4000-8000-${nodeName.slice(4).padStart(12, '0')}` },
        seq: 1,
        seeded: false,
        blocks: blocks.map((cidr) => ({ cidr })),
        granting: [],
        underlay: [underlayAddress],
        overlay: overlayAddresses,
        free: 126,
      };
      const cell = { uid: `uid-${nodeName}`, version, writer: nodeName, lineage: [], value };
      store.write(recordKey('peer', name), { promised: ballot, accepted: ballot, cell });
    }
  });
}

/** A namespace behind the host's underlay link in which every address of a peer, on the underlay and on the overlay, answers. */
async function playOthers(): Promise<TestNetns> {
  const others = await TestNetns.create('others');
  const [overlay] = JSON.parse(await run(['ip', '-j', 'link', 'show', 'weft0'])) as readonly [{ address: string }];
  await run(['ip', 'link', 'set', 'switch0', 'netns', others.name]);
  await others.exec([
    'sh',
    '-ec',
    `ip address add ${gateway}/24 dev switch0; ip link set switch0 up
     ip route add local ${peerNetwork} dev lo; ip route add local 100.64.0.0/10 dev lo
     ip route replace 192.168.50.0/24 dev switch0 src 198.18.0.1
     ip link add overlay type vxlan id 6784 dstport 6784 nolearning; ip link set overlay mtu 1450 up
     ip route add 10.32.0.0/12 via 10.32.0.1 dev overlay onlink
     ip neighbour add 10.32.0.1 lladdr ${overlay.address} dev overlay nud permanent
     bridge fdb append ${overlay.address} dev overlay dst 192.168.50.1
     nft 'table netdev others { chain in { type filter hook ingress device overlay priority 0; meta pkttype set host; }; }'`,
  ]);
  return others;
}

async function programmed(host: AgentHost, count: number): Promise<void> {
  const deadlineMs = performance.now() + 60_000;
  for (;;) {
    const { length } = (await run(['ip', 'nexthop'])).split('\n').filter((line) => line.includes('proto 87'));
    if (length === count) return;
    if (performance.now() > deadlineMs) throw new Error(`${length} of ${count} peers programmed:\n${await host.log()}`);
    await sleep(50);
  }
}

async function usage({ pid }: AgentHost): Promise<{ readonly cpuSeconds: number; readonly wakeUps: number }> {
  const fields = (await readFile(`/proc/${pid}/stat`, 'utf8')).replace(/^.*\) /, '').split(' ');
  const cpuSeconds = (Number(fields[11]) + Number(fields[12])) / ticksPerSecond;
  return { cpuSeconds, wakeUps: await wakeUpsOf(pid ?? 0) };
}

async function rssMegabytes({ pid }: AgentHost): Promise<number> {
  const kilobytes = /^VmRSS:\s+(\d+) kB/m.exec(await readFile(`/proc/${pid}/status`, 'utf8'))?.[1];
  return Number(kilobytes) / 1024;
}
