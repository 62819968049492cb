// The part of the desired state that comes from the other peers: which of them can be programmed, and what each needs in the kernel.
// Thousands pass through here in one go, so loops make nothing that is thrown away again. Pure.
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

import { canonicalCidr, familyOf, isUnicast, readAddress } from './cidr.ts';
import type { Family } from './cidr.ts';
import { directGateway } from './direct.ts';
import type { DirectInput } from './direct.ts';
import { vtepMac, vtepOf } from './identity.ts';
import { plainMetric } from './objects.ts';
import type { Finding, Route } from './objects.ts';
import type { SetElements } from './set-shapes.ts';

/** A peer that can be programmed. */
export interface UsablePeer {
  readonly name: string;
  readonly underlayAddress: string;
  readonly mac: string;
  /** On the overlay. */
  readonly gateway: string;
  /** By family of the blocks: on the underlay link, where packets go there directly. */
  readonly direct: Readonly<Record<Family, string | undefined>>;
  readonly blocks: readonly string[];
}

export interface UsablePeersInput {
  readonly view: IpamView;
  /** This node's underlay address. */
  readonly own: string | undefined;
  /** Nexthops on the overlay may be link-local addresses. */
  readonly linkLocal: boolean;
  readonly direct: DirectInput;
}

const overlayOnly: UsablePeer['direct'] = { 4: undefined, 6: undefined };

/**
 * Peers that can be programmed, by name; of two that claim one underlay address or MAC the first by name stays, and one whose node is gone
 * gives way: the address has another machine now.
 */
export function usablePeers(input: UsablePeersInput, findings: Finding[]): readonly UsablePeer[] {
  const { view, own, linkLocal } = input;
  const self = view.peers.find((peer) => peer.self);
  /** Names by underlay address and by MAC: no text is both. */
  const owners = new Map<string, string>();
  if (self) owners.set(vtepMac(self.name), self.name);
  if (own !== undefined) owners.set(own, self?.name ?? 'this node');
  const isDirect = input.direct.mode !== 'vxlan';
  const peers: UsablePeer[] = [];
  for (const { name, self: isSelf, underlayAddress: address, blocks: named } of goneLast(byName(view.peers))) {
    if (isSelf || address === undefined) continue;
    const underlayAddress = readAddress(address);
    if (underlayAddress === undefined || !isUnicast(underlayAddress)) {
      const message = `its underlay "${address}" is no address of a machine; ${name} gets no route`;
      findings.push({ name: 'peerWithoutUnderlay', subject: name, message });
      continue;
    }
    if (own !== undefined && familyOf(own) !== familyOf(underlayAddress)) {
      const message = `underlay ${underlayAddress} is of another family than this node's ${own}`;
      findings.push({ name: 'underlayFamily', subject: name, message });
      continue;
    }
    const { mac, linkLocal: onOverlay } = vtepOf(name);
    const ofAddress = owners.get(underlayAddress);
    const other = ofAddress ?? owners.get(mac);
    if (other !== undefined) {
      const kind = ofAddress === undefined ? 'duplicatePeerMac' : 'duplicatePeerAddress';
      const what = ofAddress === undefined ? `VTEP MAC ${mac}` : `underlay address ${underlayAddress}`;
      const message = `${what} belongs to ${other} already; ${name} gets no route`;
      findings.push({ name: kind, subject: name, message });
      continue;
    }
    owners.set(underlayAddress, name);
    owners.set(mac, name);
    const gateway = linkLocal ? onOverlay : underlayAddress;
    const direct = isDirect ? directOf(input.direct, { name, underlayAddress }) : overlayOnly;
    peers.push({ name, underlayAddress, mac, gateway, direct, blocks: canonicalBlocks(named, name, findings) });
  }
  return peers;
}

function directOf(input: DirectInput, peer: Pick<UsablePeer, 'name' | 'underlayAddress'>): UsablePeer['direct'] {
  return { 4: directGateway(input, peer, 4), 6: directGateway(input, peer, 6) };
}

/** IPAM's views are in order already. */
function byName(peers: readonly PeerView[]): readonly PeerView[] {
  for (let at = 1; at < peers.length; at++) {
    if (compareNames(peers[at - 1] as PeerView, peers[at] as PeerView) > 0) return peers.toSorted(compareNames);
  }
  return peers;
}

function goneLast(peers: readonly PeerView[]): readonly PeerView[] {
  if (!peers.some(({ gone }) => gone)) return peers;
  return [...peers.filter(({ gone }) => !gone), ...peers.filter(({ gone }) => gone)];
}

function compareNames(left: PeerView, right: PeerView): number {
  return left.name < right.name ? -1 : left.name > right.name ? 1 : 0;
}

/** The blocks that are CIDRs in canonical writing; the others become findings. */
export function canonicalBlocks(cidrs: readonly string[], owner: string, findings: Finding[]): readonly string[] {
  const blocks: string[] = [];
  for (const cidr of cidrs) {
    try {
      blocks.push(canonicalCidr(cidr));
    } catch {
      findings.push({ name: 'badBlock', subject: owner, message: `"${cidr}" of ${owner} is no CIDR` });
    }
  }
  return blocks;
}

/** Gateways of nexthop objects. The one on the overlay stays while packets go directly: falling back is one route. */
export function nexthopsOf(peers: readonly UsablePeer[]): readonly string[] {
  const gateways: string[] = [];
  for (const { gateway, direct } of peers) {
    gateways.push(gateway);
    if (direct[4] !== undefined) gateways.push(direct[4]);
    if (direct[6] !== undefined && direct[6] !== direct[4]) gateways.push(direct[6]);
  }
  return gateways;
}

/** One route per block; of two peers that claim one block the first has it. */
export function peerRoutes(
  peers: readonly UsablePeer[],
  prefsrc: ReadonlyMap<Family, string>,
  own: ReadonlySet<string>,
  findings: Finding[],
): readonly Route[] {
  const owners = new Map<string, string>();
  const routes: Route[] = [];
  for (const { name, gateway: onOverlay, direct, blocks } of peers) {
    for (const dst of blocks) {
      const owner = own.has(dst) ? 'this node' : owners.get(dst);
      if (owner !== undefined) {
        const message = `${dst} of ${name} belongs to ${owner} already`;
        findings.push({ name: 'duplicateBlock', subject: dst, message });
        continue;
      }
      owners.set(dst, name);
      const family = familyOf(dst);
      const source = prefsrc.get(family);
      if (source === undefined) continue;
      const gateway = direct[family] ?? onOverlay;
      routes.push({ dst, metric: plainMetric[family], target: { kind: 'peer', gateway, prefsrc: source } });
    }
  }
  return routes;
}

/** Elements of the sets of underlay addresses that VXLAN is accepted from. */
export function peerElements(peers: readonly UsablePeer[]): Pick<SetElements, 'peers4' | 'peers6'> {
  const [peers4, peers6] = [new Set<string>(), new Set<string>()];
  for (const { underlayAddress } of peers) (familyOf(underlayAddress) === 4 ? peers4 : peers6).add(underlayAddress);
  return { peers4, peers6 };
}
