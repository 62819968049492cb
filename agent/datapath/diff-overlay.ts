// The overlay device's part of the difference (diff.ts): what of it can be set, what needs a new device, and what goes with the old
// one. Pure.
import { addressOf, familyOf } from './cidr.ts';
import type {
  ActualOverlay,
  ActualRouteTarget,
  ActualState,
  DesiredState,
  LinkAddress,
  Operation,
  OverlayLink,
} from './objects.ts';
import { mainTable } from './objects.ts';

/** What is done first, in order, and what last, in the opposite order. */
export interface Halves {
  readonly add: Operation[];
  readonly remove: Operation[];
}

export function overlayOperations(
  { overlay: wanted }: Pick<DesiredState, 'overlay'>,
  actual: ActualState,
): { readonly halves: Halves; readonly renewed: boolean } {
  const { overlay: found } = actual;
  const halves: Halves = { add: [], remove: [] };
  if (!wanted) return { halves, renewed: false };
  if (!found) {
    halves.add.push({ kind: 'addOverlay', link: wanted });
    return { halves, renewed: false };
  }
  if (mustRenew(wanted, found)) {
    halves.add.push(...routesToKeep(found.ifname, actual));
    halves.add.push({ kind: 'delOverlay', ifname: found.ifname }, { kind: 'addOverlay', link: wanted });
    return { halves, renewed: true };
  }
  if (!isOverlayRight(wanted, found)) halves.add.push({ kind: 'setOverlay', link: wanted });
  return { halves, renewed: false };
}

/** True where nothing is to be done about the device. */
export function isOverlayRight(wanted: OverlayLink, found: ActualOverlay): boolean {
  return (
    !mustRenew(wanted, found) &&
    found.mac === wanted.mac &&
    found.mtuBytes === wanted.mtuBytes &&
    found.up &&
    found.rpFilter === wanted.rpFilter &&
    found.quietIpv6 &&
    found.settled
  );
}

/** What cannot be changed on a living VXLAN device, or makes it not ours in kind. */
function mustRenew(wanted: OverlayLink, found: ActualOverlay): boolean {
  return (
    found.kind !== 'vxlan' ||
    found.vni !== wanted.vni ||
    found.port !== wanted.port ||
    found.local !== wanted.local ||
    found.learning ||
    found.external ||
    !found.plain
  );
}

/** Routes to pods lose their source with the device, and the kernel takes them away with that: pods of this node keep each other without. */
function routesToKeep(ifname: string, { addresses, routes }: ActualState): readonly Operation[] {
  const gone = addressesOn(ifname, addresses);
  return routes.flatMap(({ dst, metric, table, target }): readonly Operation[] => {
    if (table !== mainTable || !isLocal(target, ifname) || !gone.has(target.prefsrc ?? '')) return [];
    const bare = { kind: 'pod', ifname: target.ifname, prefsrc: undefined } as const;
    return [{ kind: 'putRoute', route: { dst, metric, target: bare }, nexthopId: undefined, replaces: true }];
  });
}

function isLocal(
  target: ActualRouteTarget,
  overlay: string,
): target is Extract<ActualRouteTarget, { readonly kind: 'link' }> {
  return target.kind === 'link' && target.ifname !== overlay;
}

function addressesOn(ifname: string, addresses: readonly LinkAddress[]): ReadonlySet<string> {
  return new Set(addresses.filter((address) => address.ifname === ifname).map(({ cidr }) => addressOf(cidr)));
}

/** The state without what goes with the device. */
export function withoutOverlay(actual: ActualState, ifname: string): ActualState {
  // Nexthops on the underlay link stay, and routes through them; not those of IPv4 whose source address was the device's (fib_sync_down_addr),
  // while rt6_remove_prefsrc leaves routes through nexthop objects alone.
  const nexthops = actual.nexthops.filter(({ gateway }) => gateway?.includes('%'));
  const kept = new Set(nexthops.map(({ id }) => id));
  const gone = addressesOn(ifname, actual.addresses);
  return {
    ...actual,
    addresses: actual.addresses.filter((address) => address.ifname !== ifname),
    nexthops,
    routes: actual.routes.flatMap((route) => {
      const { target, dst } = route;
      const isGone = familyOf(dst) === 4 && target.kind === 'nexthop' && gone.has(target.prefsrc ?? '');
      if (target.kind === 'nexthop') return kept.has(target.id) && !isGone ? [route] : [];
      if (target.kind !== 'link') return [route];
      if (!isLocal(target, ifname)) return [];
      return gone.has(target.prefsrc ?? '') ? [{ ...route, target: { ...target, prefsrc: undefined } }] : [route];
    }),
    neighbours: [],
    fdb: [],
  };
}
