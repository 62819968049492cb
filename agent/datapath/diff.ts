// The way from what is to what should be, as an ordered list of writes. Pure.
//
// Order: what lets traffic through comes first (firewall elements, links, addresses, FDB, neighbours, nexthops, routes),
// what takes away comes last and in the opposite order, so that a peer or pod that is wanted before and after is never
// without its path. A nexthop is removed only after the routes that used it, because the kernel removes those with it.
import { addressOf, cidrContains } from './cidr.ts';
import { overlayOperations, withoutOverlay } from './diff-overlay.ts';
import type { Halves } from './diff-overlay.ts';
import type {
  ActualBridge,
  ActualNeighbour,
  ActualNexthop,
  ActualRoute,
  ActualState,
  DesiredState,
  FdbEntry,
  LinkAddress,
  Operation,
  PortEntry,
  Route,
  RouteTarget,
} from './objects.ts';
import { mainRouteKey, routeKey } from './objects.ts';
import { hasBridgeTable } from './ruleset.ts';
import { keyOf, setNames, shapeOf } from './set-shapes.ts';
import type { SetElements, SetName } from './set-shapes.ts';

/** First id tried for a new nexthop object: away from the small numbers that people use by hand. */
const firstNexthopId = 0x5745_0001;

/** Writes that bring `actual` to `desired`; empty when nothing differs. */
export function diff(desired: DesiredState, actual: ActualState): readonly Operation[] {
  const overlay = overlayOperations(desired, actual);
  // Everything on a device that is made anew goes with the old one.
  const kept = overlay.renewed && actual.overlay ? withoutOverlay(actual, actual.overlay.ifname) : actual;
  // A device that gets another MAC loses its neighbours.
  const isMoved = desired.overlay && actual.overlay && desired.overlay.mac !== actual.overlay.mac;
  const known = isMoved ? { ...kept, neighbours: [] } : kept;
  const podLinks = podLinkOperations(desired, known);
  const addresses = addressOperations(desired, known, podLinks.present);
  const parts: readonly Halves[] = [
    firewallOperations(desired, known),
    overlay.halves,
    bridgeOperations(desired, known.bridge),
    podLinks.halves,
    portEntryOperations(desired, known, podLinks.present),
    addresses.halves,
    fdbOperations(desired, known),
    neighbourOperations(desired, known),
    heldNeighbourOperations(known),
    ...routingOperations(desired, known, podLinks.present, addresses.remade),
  ];
  return [...parts.flatMap((part) => part.add), ...parts.toReversed().flatMap((part) => part.remove)];
}

function firewallOperations(desired: DesiredState, actual: ActualState): Halves {
  const wanted = desired.firewall;
  const found = actual.firewall;
  const load = !sameList(wanted.ruleset.fingerprint, found.fingerprint);
  const halves: Halves = { add: [], remove: [] };
  if (load) {
    // Peers that go stay admitted until nothing is routed to them any more, as with single elements.
    const elements: SetElements = {
      ...wanted.elements,
      peers4: wanted.elements.peers4.union(found.elements.peers4),
      peers6: wanted.elements.peers6.union(found.elements.peers6),
    };
    const dropsBridgeTable = hasBridgeTable(found) && wanted.ruleset.bridgeBody === undefined;
    halves.add.push({ kind: 'loadFirewall', firewall: { ...wanted, elements }, dropsBridgeTable });
    for (const set of ['peers4', 'peers6'] as const) {
      const stale = found.elements[set].difference(wanted.elements[set]);
      for (const key of stale) halves.remove.push({ kind: 'delElement', set, key });
    }
    return halves;
  }
  for (const set of setNames) elementOperations(set, wanted.elements[set], found.elements[set], halves);
  return halves;
}

function elementOperations(
  set: SetName,
  wanted: ReadonlySet<string>,
  found: ReadonlySet<string>,
  halves: Halves,
): void {
  const missing = found.size === 0 ? wanted : wanted.difference(found);
  const stale = found.size === 0 ? found : found.difference(wanted);
  // What the kernel would not have both of goes first: apply.ts writes these and those after them in one transaction.
  const isInTheWay = stale.size === 0 ? undefined : obstructing(set, missing);
  for (const key of stale) (isInTheWay?.(key) ? halves.add : halves.remove).push({ kind: 'delElement', set, key });
  for (const key of missing) halves.add.push({ kind: 'addElement', set, key });
}

/** Of a map's elements with one key only one can be there, of intervals none that covers another. */
function obstructing(set: SetName, missing: ReadonlySet<string>): (key: string) => boolean {
  if (!shapeOf(set).interval) {
    const keys = new Set(Array.from(missing, keyOf));
    return (key) => keys.has(keyOf(key));
  }
  const blocks = Map.groupBy(missing, (key) => key.slice(0, key.indexOf(' ')));
  const blockOf = (key: string): string => key.slice(key.lastIndexOf(' ') + 1);
  return (key) =>
    blocks.get(key.slice(0, key.indexOf(' ')))?.some((other) => overlaps(blockOf(key), blockOf(other))) === true;
}

function overlaps(left: string, right: string): boolean {
  return cidrContains(left, right) || cidrContains(right, left);
}

function podLinkOperations(
  desired: DesiredState,
  actual: ActualState,
): { readonly halves: Halves; readonly present: ReadonlySet<string> } {
  const halves: Halves = { add: [], remove: [] };
  const wanted = new Map(desired.podLinks.map((link) => [link.ifname, link]));
  const present = new Set<string>();
  for (const found of actual.podLinks) {
    if (found.doomed) continue;
    const link = wanted.get(found.ifname);
    if (!link) {
      halves.remove.push({ kind: 'doomPodLink', ifname: found.ifname });
      continue;
    }
    present.add(found.ifname);
    const { ifname } = link;
    if (link.bridge !== undefined && found.bridge !== link.bridge) {
      halves.add.push({ kind: 'setPort', ifname, bridge: link.bridge });
    }
    if (link.ignoresAdvertisements && !found.quietIpv6) {
      // Or the kernel makes the gateway's address by itself, and looks for a duplicate first.
      halves.add.push({ kind: 'setSysctl', ifname, name: `net/ipv6/conf/${ifname}/addr_gen_mode`, value: '1' });
    }
    if (link.ignoresAdvertisements && found.ipv6Off) {
      halves.add.push({ kind: 'setSysctl', ifname, name: `net/ipv6/conf/${ifname}/disable_ipv6`, value: '0' });
    }
    if (link.ignoresAdvertisements && !found.ignoresAdvertisements) {
      halves.add.push({ kind: 'setSysctl', ifname, name: `net/ipv6/conf/${ifname}/accept_ra`, value: '0' });
    }
    const same =
      found.alias === link.alias &&
      found.mac === link.hostMac &&
      found.up &&
      found.settled &&
      found.routeLocalnet === link.routeLocalnet &&
      (link.bridge !== undefined || found.bridge === undefined);
    if (!same) {
      halves.add.push({ kind: 'setPodLink', link, setMac: found.mac !== link.hostMac });
    }
  }
  return { halves, present };
}

function bridgeOperations({ bridge: wanted, overlay }: DesiredState, found: ActualBridge | undefined): Halves {
  const halves: Halves = { add: [], remove: [] };
  if (!wanted) {
    if (overlay && found?.isBridge) halves.remove.push({ kind: 'delBridge', ifname: found.ifname });
  } else if (!found?.isBridge) {
    if (found) halves.add.push({ kind: 'delBridge', ifname: found.ifname });
    halves.add.push({ kind: 'addBridge', link: wanted });
  } else if (!found.settled || found.mac !== wanted.mac || found.mtuBytes !== wanted.mtuBytes) {
    halves.add.push({ kind: 'setBridge', link: wanted });
  }
  return halves;
}

function portEntryOperations(desired: DesiredState, actual: ActualState, pods: ReadonlySet<string>): Halves {
  const halves: Halves = { add: [], remove: [] };
  const keyOfEntry = ({ ifname, mac }: PortEntry): string => `${ifname} ${mac}`;
  const wanted = new Map(desired.portEntries.map((entry) => [keyOfEntry(entry), entry]));
  const found = new Map(actual.portEntries.map((entry) => [keyOfEntry(entry), entry]));
  for (const [key, entry] of wanted) {
    if (!found.has(key) && pods.has(entry.ifname)) halves.add.push({ kind: 'putPortEntry', portEntry: entry });
  }
  for (const [key, entry] of found) {
    if (!wanted.has(key) && pods.has(entry.ifname)) halves.remove.push({ kind: 'delPortEntry', portEntry: entry });
  }
  return halves;
}

/** `remade`: addresses of another scope, which only a new one can have. */
function addressOperations(
  desired: DesiredState,
  actual: ActualState,
  pods: ReadonlySet<string>,
): { readonly halves: Halves; readonly remade: readonly LinkAddress[] } {
  const devices = new Set([desired.overlay?.ifname, desired.bridge?.ifname]);
  const wanted = new Map(
    desired.addresses
      .filter(({ ifname }) => devices.has(ifname) || pods.has(ifname))
      .map((address) => [addressKey(address), address]),
  );
  const found = new Map(
    actual.addresses
      // A link that waits for its deletion keeps its address: removing it is work for nothing.
      .filter(({ ifname }) => devices.has(ifname) || pods.has(ifname))
      .map((address) => [addressKey(address), address]),
  );
  const halves: Halves = { add: [], remove: [] };
  const remade: LinkAddress[] = [];
  for (const [key, address] of found) {
    if (wanted.has(key)) continue;
    const isWanted = wanted.has(addressKey({ ...address, linkScope: !address.linkScope }));
    if (isWanted) remade.push(address);
    (isWanted ? halves.add : halves.remove).push({ kind: 'delAddress', address });
  }
  for (const [key, address] of wanted) if (!found.has(key)) halves.add.push({ kind: 'addAddress', address });
  return { halves, remade };
}

function addressKey(address: LinkAddress): string {
  return `${address.ifname} ${address.cidr} ${address.linkScope}`;
}

function fdbOperations(desired: DesiredState, actual: ActualState): Halves {
  const halves: Halves = { add: [], remove: [] };
  if (!desired.overlay) return halves;
  const found = new Map<string, FdbEntry>();
  const ambiguous = new Set<string>();
  for (const entry of actual.fdb) {
    if (found.has(entry.mac)) ambiguous.add(entry.mac);
    found.set(entry.mac, entry);
  }
  const kept = new Set<string>();
  for (const entry of desired.fdb) {
    const old = found.get(entry.mac);
    if (old) kept.add(entry.mac);
    if (old?.underlayAddress === entry.underlayAddress && !ambiguous.has(entry.mac)) continue;
    halves.add.push({ kind: 'putFdb', entry });
  }
  if (kept.size === found.size) return halves;
  for (const entry of actual.fdb) if (!kept.has(entry.mac)) halves.remove.push({ kind: 'delFdb', entry });
  return halves;
}

function neighbourOperations(desired: DesiredState, actual: ActualState): Halves {
  const halves: Halves = { add: [], remove: [] };
  if (!desired.overlay) return halves;
  const found = new Map<string, ActualNeighbour>();
  for (const neighbour of actual.neighbours) found.set(neighbour.address, neighbour);
  const kept = new Set<string>();
  for (const neighbour of desired.neighbours) {
    const old = found.get(neighbour.address);
    if (old) kept.add(neighbour.address);
    if (old?.mac !== neighbour.mac || !old.permanent) halves.add.push({ kind: 'putNeighbour', neighbour });
  }
  if (kept.size === found.size) return halves;
  for (const neighbour of actual.neighbours) {
    // Entries that the kernel made by itself (multicast, failed lookups) are not ours: ours are permanent.
    if (neighbour.permanent && !kept.has(neighbour.address)) halves.remove.push({ kind: 'delNeighbour', neighbour });
  }
  return halves;
}

/** Of a link of ours nobody keeps where a pod is: the kernel finds it. */
function heldNeighbourOperations({ heldNeighbours }: ActualState): Halves {
  return { add: [], remove: heldNeighbours.map((held) => ({ kind: 'freeNeighbour', ...held })) };
}

/** Nexthop objects, then routes: two parts, so that nexthops are added before and removed after the routes. */
function routingOperations(
  desired: DesiredState,
  actual: ActualState,
  pods: ReadonlySet<string>,
  remade: readonly LinkAddress[],
): readonly [Halves, Halves] {
  const nexthops: Halves = { add: [], remove: [] };
  const routes: Halves = { add: [], remove: [] };
  const idOf = assignNexthops(desired, actual, nexthops);
  const found = new Map<string, ActualRoute>();
  for (const route of actual.routes) found.set(routeKey(route), route);
  const kept = new Set<string>();
  for (const route of desired.routes) {
    const { target } = route;
    if (target.kind === 'pod' && !pods.has(target.ifname)) continue;
    const nexthopId = target.kind === 'peer' ? idOf.get(target.gateway) : undefined;
    if (target.kind === 'peer' && nexthopId === undefined) continue;
    const key = mainRouteKey(route);
    const old = found.get(key);
    if (old) kept.add(key);
    if (old && sameTarget(route, nexthopId, old) && !remade.some((address) => goesWith(target, address))) continue;
    routes.add.push({ kind: 'putRoute', route, nexthopId, replaces: old !== undefined });
  }
  for (const [key, route] of found) {
    if (kept.has(key)) continue;
    // Without an overlay (its device or the own record is not known yet) a predecessor's peers stay reachable.
    const { target } = route;
    const isKept = target.kind === 'nexthop' || (target.kind === 'link' && target.ifname === actual.bridge?.ifname);
    if (!desired.overlay && isKept) continue;
    routes.remove.push({ kind: 'delRoute', route });
  }
  return [nexthops, routes];
}

/** The nexthop id of each wanted gateway: what the kernel has, else a free number. */
function assignNexthops(desired: DesiredState, actual: ActualState, halves: Halves): ReadonlyMap<string, number> {
  const ids = new Map<string, number>();
  if (!desired.overlay) return ids;
  const wanted = new Set(desired.nexthops);
  const own = new Set<number>();
  const stale: ActualNexthop[] = [];
  for (const nexthop of actual.nexthops) {
    own.add(nexthop.id);
    const { gateway } = nexthop;
    if (gateway !== undefined && wanted.has(gateway) && !ids.has(gateway)) ids.set(gateway, nexthop.id);
    else stale.push(nexthop);
  }
  let next = firstNexthopId;
  for (const gateway of wanted) {
    if (ids.has(gateway)) continue;
    while (own.has(next) || actual.foreignNexthopIds.has(next)) next++;
    ids.set(gateway, next);
    halves.add.push({ kind: 'addNexthop', id: next, gateway });
    next++;
  }
  for (const { id, gateway } of stale) halves.remove.push({ kind: 'delNexthop', id, gateway });
  return ids;
}

/** The kernel takes such routes away with the address. */
function goesWith(target: RouteTarget, { ifname, cidr }: LinkAddress): boolean {
  if (target.kind === 'unreachable') return false;
  return target.prefsrc === addressOf(cidr) || ('ifname' in target && target.ifname === ifname);
}

function sameTarget(wanted: Route, nexthopId: number | undefined, found: ActualRoute): boolean {
  const { target } = wanted;
  switch (target.kind) {
    case 'peer':
      return (
        found.target.kind === 'nexthop' && found.target.id === nexthopId && found.target.prefsrc === target.prefsrc
      );
    case 'bridge':
    case 'pod':
      return (
        found.target.kind === 'link' && found.target.ifname === target.ifname && found.target.prefsrc === target.prefsrc
      );
    case 'unreachable':
      return found.target.kind === 'unreachable';
    default:
      return false;
  }
}

function sameList(left: readonly string[], right: readonly string[]): boolean {
  return left.length === right.length && left.every((line, index) => line === right[index]);
}
