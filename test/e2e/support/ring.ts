// Who holds which part of the range, read from the Peer objects that the agents share, and what a node's kernel and agent hold.
import { BlockList } from 'node:net';

import type { Cluster } from '../cluster/cluster.ts';
import { run } from '../cluster/host.ts';
import type { ClusterNode } from '../cluster/node.ts';

export interface PeerRecord {
  readonly name: string;
  readonly node: string;
  readonly blocks: readonly string[];
}

/** Every Peer object with its node's name and its blocks. */
export async function peerRecords(cluster: Cluster): Promise<readonly PeerRecord[]> {
  const { items } = await cluster.plane.kubectlJson<{
    readonly items: readonly {
      readonly metadata: { readonly name: string };
      readonly spec: {
        readonly node: { readonly name: string };
        readonly blocks?: readonly { readonly cidr: string }[];
      };
    }[];
  }>(['get', 'peers.weft.network']);
  return items.map(({ metadata, spec }) => ({
    name: metadata.name,
    node: spec.node.name,
    blocks: (spec.blocks ?? []).map((block) => block.cidr),
  }));
}

/** A control plane that is no node gets a route to each node's blocks: the API server's own ways into pods need them. */
export async function routeControlPlane(cluster: Cluster): Promise<void> {
  if (cluster.settings.controlPlane === 'node') return;
  for (const peer of await peerRecords(cluster)) {
    // A node that is gone may still have a record.
    const address = cluster.nodes.find((node) => node.name === peer.node)?.address;
    for (const block of peer.blocks) {
      if (address !== undefined && !block.includes(':')) await run(['ip', 'route', 'replace', block, 'via', address]);
    }
  }
}

/** Whether an address lies in one of the CIDRs of its family. */
export function inBlocks(address: string, cidrs: readonly string[]): boolean {
  const list = new BlockList();
  for (const cidr of cidrs) {
    const [base = '', bits = '32'] = cidr.split('/');
    list.addSubnet(base, Number(bits), familyOf(base));
  }
  return list.check(address, familyOf(address));
}

function familyOf(address: string): 'ipv4' | 'ipv6' {
  return address.includes(':') ? 'ipv6' : 'ipv4';
}

export interface AgentStatus {
  readonly ready: boolean;
  readonly startedAtMs: number;
  readonly leasesTotal: number;
  readonly leases: readonly {
    readonly pod: string;
    readonly addresses: readonly string[];
    readonly hostIfname: string;
  }[];
  readonly findings: readonly { readonly [key: string]: unknown }[];
  readonly pools: readonly { readonly name: string }[];
}

/** What the node's agent says of itself; throws while it does not answer. */
export async function agentStatus(node: ClusterNode): Promise<AgentStatus> {
  return JSON.parse(
    await node.run(['curl', '-fsS', '--max-time', '3', 'http://127.0.0.1:6785/api/status']),
  ) as AgentStatus;
}

/** Names of the node's links that are host ends of pods, the kernel's words. */
export async function podLinks(node: ClusterNode): Promise<readonly string[]> {
  const links = JSON.parse(await node.run(['ip', '-j', 'link', 'show', 'type', 'veth'])) as readonly {
    readonly ifname?: string;
  }[];
  // The node's own uplink is a veth too.
  return links.flatMap(({ ifname }) => (ifname === undefined || ifname === 'eth0' ? [] : [ifname]));
}

/** Destinations of every route of the node, as `ip route` prints them. */
export async function routeDestinations(node: ClusterNode): Promise<readonly string[]> {
  const texts = await Promise.all(
    ['-4', '-6'].map(async (family) => await node.run(['ip', family, '-j', 'route', 'show', 'table', 'all'])),
  );
  return texts.flatMap((text) => (JSON.parse(text) as readonly { readonly dst: string }[]).map(({ dst }) => dst));
}

/** SIGKILL to the node's agent. Throws when there is none. */
export async function killAgent(node: ClusterNode): Promise<void> {
  const pids = (await node.run(['pgrep', '-f', '/opt/weft/bin/weft agent'])).trim().split('\n');
  for (const pid of pids) await node.run(['kill', '-9', pid]);
}
