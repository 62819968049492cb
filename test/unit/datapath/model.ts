// A kernel of values: applies operations as the real one would, as far as planning can see, so that properties of diff can
// be tested without root. Like the kernel it takes routes away with their nexthop, link or source address.
import { familyOf, hostCidr } from '#agent/datapath/cidr.ts';
import { plainMetric } from '#agent/datapath/objects.ts';
import { noElements } from '#agent/datapath/set-shapes.ts';
import type { SetName } from '#agent/datapath/set-shapes.ts';
import type {
  ActualRoute,
  ActualRouteTarget,
  ActualState,
  Operation,
  OverlayLink,
  Route,
} from '#agent/datapath/objects.ts';

export const emptyKernel: ActualState = {
  overlay: undefined,
  bridge: undefined,
  portEntries: [],
  podLinks: [],
  heldNeighbours: [],
  addresses: [],
  nexthops: [],
  foreignNexthopIds: new Set(),
  routes: [],
  neighbours: [],
  fdb: [],
  firewall: { fingerprint: [], elements: noElements() },
};

/** The state after one operation. Throws where the kernel would refuse. */
export function applyToModel(state: ActualState, operation: Operation): ActualState {
  switch (operation.kind) {
    case 'loadFirewall':
      return {
        ...state,
        firewall: { fingerprint: operation.firewall.ruleset.fingerprint, elements: operation.firewall.elements },
      };
    case 'addElement':
    case 'delElement':
      return withElement(state, operation.kind, operation.set, operation.key);
    case 'addOverlay':
      if (state.overlay) throw new Error('EEXIST: the overlay device');
      return { ...state, overlay: overlayOf(operation.link) };
    case 'setOverlay':
      return { ...state, overlay: overlayOf(operation.link) };
    case 'delOverlay':
      return withoutLink({ ...state, overlay: undefined, nexthops: [], neighbours: [], fdb: [] }, operation.ifname);
    case 'setPodLink':
      return {
        ...state,
        podLinks: state.podLinks.map((link) =>
          link.ifname === operation.link.ifname
            ? {
                ...link,
                alias: operation.link.alias,
                mac: operation.link.hostMac,
                up: true,
                settled: true,
                routeLocalnet: operation.link.routeLocalnet,
              }
            : link,
        ),
      };
    case 'addBridge':
    case 'setBridge':
      return { ...state, bridge: { ...operation.link, isBridge: true, settled: true } };
    case 'delBridge':
      return withoutLink(
        {
          ...state,
          bridge: undefined,
          portEntries: [],
          podLinks: state.podLinks.map((link) => ({ ...link, bridge: undefined })),
        },
        operation.ifname,
      );
    case 'setPort':
      if (!state.bridge) throw new Error(`ENODEV: ${operation.bridge}`);
      return {
        ...state,
        podLinks: state.podLinks.map((link) =>
          link.ifname === operation.ifname ? { ...link, bridge: operation.bridge } : link,
        ),
      };
    case 'putPortEntry':
      return { ...state, portEntries: [...state.portEntries, operation.portEntry] };
    case 'delPortEntry': {
      const { ifname, mac } = operation.portEntry;
      return {
        ...state,
        portEntries: state.portEntries.filter((entry) => entry.ifname !== ifname || entry.mac !== mac),
      };
    }
    case 'setSysctl':
      return {
        ...state,
        podLinks: state.podLinks.map((link) =>
          operation.name === `net/ipv6/conf/${link.ifname}/accept_ra` ? { ...link, ignoresAdvertisements: true } : link,
        ),
      };
    case 'doomPodLink':
      return withoutLink(
        { ...state, podLinks: state.podLinks.filter(({ ifname }) => ifname !== operation.ifname) },
        operation.ifname,
      );
    case 'addAddress':
      return { ...state, addresses: [...state.addresses, operation.address] };
    case 'delAddress': {
      const { ifname, cidr } = operation.address;
      const source = cidr.split('/')[0];
      return {
        ...state,
        addresses: state.addresses.filter((address) => address.ifname !== ifname || address.cidr !== cidr),
        routes: state.routes.flatMap((route) => {
          if (!('prefsrc' in route.target) || route.target.prefsrc !== source) return [route];
          // IPv6 keeps the route and forgets the source (rt6_remove_prefsrc).
          return source?.includes(':') ? [{ ...route, target: { ...route.target, prefsrc: undefined } }] : [];
        }),
      };
    }
    case 'putFdb':
      return { ...state, fdb: [...state.fdb.filter(({ mac }) => mac !== operation.entry.mac), operation.entry] };
    case 'delFdb':
      return { ...state, fdb: state.fdb.filter(({ mac }) => mac !== operation.entry.mac) };
    case 'putNeighbour':
      return {
        ...state,
        neighbours: [
          ...state.neighbours.filter(({ address }) => address !== operation.neighbour.address),
          { ...operation.neighbour, permanent: true },
        ],
      };
    case 'delNeighbour':
      return {
        ...state,
        neighbours: state.neighbours.filter(({ address }) => address !== operation.neighbour.address),
      };
    case 'freeNeighbour':
      return {
        ...state,
        heldNeighbours: state.heldNeighbours.filter(
          ({ ifname, address }) => ifname !== operation.ifname || address !== operation.address,
        ),
      };
    case 'addNexthop': {
      const { id, gateway } = operation;
      if (!state.overlay) throw new Error('ENODEV: the overlay device');
      const taken = state.foreignNexthopIds.has(id) || state.nexthops.some((nexthop) => nexthop.id === id);
      if (taken) throw new Error(`EEXIST: nexthop ${id}`);
      return { ...state, nexthops: [...state.nexthops, { id, gateway }] };
    }
    case 'delNexthop':
      return {
        ...state,
        nexthops: state.nexthops.filter(({ id }) => id !== operation.id),
        routes: state.routes.filter(({ target }) => target.kind !== 'nexthop' || target.id !== operation.id),
      };
    case 'putRoute': {
      const route = routeOf(state, operation.route, operation.nexthopId);
      return { ...state, routes: [...state.routes.filter((found) => !sameKey(found, route)), route] };
    }
    case 'delRoute':
      return { ...state, routes: state.routes.filter((found) => !sameKey(found, operation.route)) };
    default:
      return operation satisfies never;
  }
}

function overlayOf(link: OverlayLink): ActualState['overlay'] {
  const right = { up: true, quietIpv6: true, settled: true, plain: true };
  return { ...link, kind: 'vxlan', learning: false, external: false, ...right };
}

function withElement(state: ActualState, kind: 'addElement' | 'delElement', set: SetName, key: string): ActualState {
  const keys = new Set(state.firewall.elements[set]);
  if (kind === 'addElement') keys.add(key);
  else keys.delete(key);
  return { ...state, firewall: { ...state.firewall, elements: { ...state.firewall.elements, [set]: keys } } };
}

function withoutLink(state: ActualState, ifname: string): ActualState {
  const ids = new Set(state.nexthops.map(({ id }) => id));
  return {
    ...state,
    addresses: state.addresses.filter((address) => address.ifname !== ifname),
    routes: state.routes.filter(({ target }) => {
      if (target.kind === 'nexthop') return ids.has(target.id);
      return target.kind !== 'link' || target.ifname !== ifname;
    }),
  };
}

function routeOf(state: ActualState, route: Route, nexthopId: number | undefined): ActualRoute {
  return { dst: route.dst, metric: route.metric, table: 254, target: targetOf(state, route, nexthopId) };
}

function targetOf(state: ActualState, route: Route, nexthopId: number | undefined): ActualRouteTarget {
  const { target } = route;
  if (target.kind === 'unreachable') return { kind: 'unreachable' };
  const { prefsrc } = target;
  const known = state.addresses.some(({ cidr }) => prefsrc !== undefined && cidr === hostCidr(prefsrc));
  if (prefsrc !== undefined && !known) throw new Error(`EINVAL: source ${prefsrc}`);
  if (target.kind === 'bridge') {
    if (!state.bridge) throw new Error(`ENODEV: ${target.ifname}`);
    return { kind: 'link', ifname: target.ifname, prefsrc };
  }
  if (target.kind === 'pod') {
    if (!state.podLinks.some(({ ifname }) => ifname === target.ifname)) throw new Error(`ENODEV: ${target.ifname}`);
    return { kind: 'link', ifname: target.ifname, prefsrc };
  }
  if (!state.nexthops.some(({ id }) => id === nexthopId)) throw new Error(`EINVAL: nexthop ${nexthopId}`);
  return { kind: 'nexthop', id: nexthopId ?? 0, prefsrc };
}

function sameKey(left: ActualRoute, right: ActualRoute): boolean {
  return left.dst === right.dst && left.metric === right.metric && left.table === right.table;
}

function gatewayTo(state: ActualState, dst: string): string | undefined {
  const route = state.routes.find(
    (candidate) => candidate.dst === dst && candidate.metric === plainMetric[familyOf(dst)],
  );
  if (route?.target.kind !== 'nexthop') return undefined;
  const { id } = route.target;
  return state.nexthops.find((nexthop) => nexthop.id === id)?.gateway;
}

/** The VTEP MAC that packets to a block are sent to; undefined where they go directly. */
export function macTo(state: ActualState, dst: string): string | undefined {
  const gateway = gatewayTo(state, dst);
  if (!state.overlay?.up || gateway === undefined) return undefined;
  return state.neighbours.find(({ address }) => address === gateway)?.mac;
}

/** The underlay address that packets to a block go to; undefined where the way is broken anywhere. */
export function wayTo(state: ActualState, dst: string): string | undefined {
  const [direct, link] = gatewayTo(state, dst)?.split('%') ?? [];
  if (link !== undefined) return direct;
  const mac = macTo(state, dst);
  const remote = state.fdb.find((entry) => entry.mac === mac)?.underlayAddress;
  const { peers4, peers6 } = state.firewall.elements;
  return remote !== undefined && (peers4.has(remote) || peers6.has(remote)) ? remote : undefined;
}
