// The writes that make a peer, as requests that go straight into the buffer: a node has thousands of peers, and the tables of
// attributes.ts cost several times what these do. The layouts are those of neighbour.ts, nexthop.ts, route.ts and set-element.ts; a
// test holds them against each other.
import {
  formatOf,
  orFail,
  orReplace,
  writeAddress,
  writeHeader,
  writeMac,
  writeNumber,
  writeText,
} from './direct-writes.ts';
import { addressFamily, familyOf } from './ip-text.ts';
import type { NetlinkRequest } from './message.ts';
import { neighbourFlag, neighbourMessage, neighbourState } from './neighbour.ts';
import { nexthopMessage } from './nexthop.ts';
import { routeMessage, routeTable, routeType } from './route.ts';
import { delSetElement, newSetElement, tableFamily, type SetAddress } from './set-element.ts';
import { nestedBit, type Writer } from './wire.ts';

/** struct ndmsg. */
function writeNeighbourHeader(writer: Writer, family: number, ifindex: number, flags: number, state: number): void {
  const at = writeHeader(writer, 12);
  writer.bytes[at] = family;
  writer.setU32(at + 4, ifindex);
  writer.setU16(at + 8, state);
  writer.bytes[at + 10] = flags;
}

interface Place {
  readonly ifindex: number;
  readonly lladdr: string;
  readonly dst: string;
}

const fdbFormat = formatOf<Place>('FDB entry', (writer, { ifindex, lladdr, dst }) => {
  writeNeighbourHeader(writer, addressFamily.bridge, ifindex, neighbourFlag.self, neighbourState.permanent);
  writeAddress(writer, 1, dst, familyOf(dst));
  writeMac(writer, 2, lladdr);
});

const neighbourFormat = formatOf<Place & { readonly state: number }>('neighbour', (writer, message) => {
  const { ifindex, lladdr, dst, state } = message;
  const family = familyOf(dst);
  writeNeighbourHeader(writer, family, ifindex, 0, state);
  writeAddress(writer, 1, dst, family);
  writeMac(writer, 2, lladdr);
});

/** As newFdb of neighbour.ts: the MAC is behind the VTEP `dst`, by the VXLAN device `ifindex`; created or replaced. */
export function putFdb(ifindex: number, lladdr: string, dst: string): NetlinkRequest<never> {
  const message = { ifindex, lladdr, dst };
  return { name: 'newFdb', type: neighbourMessage.new, flags: orReplace, format: fdbFormat, message };
}

/** As newNeighbour: created or replaced; `state` is of NUD_*. */
export function putNeighbour(
  ifindex: number,
  dst: string,
  lladdr: string,
  state: number = neighbourState.permanent,
): NetlinkRequest<never> {
  const message = { ifindex, lladdr, dst, state };
  return { name: 'newNeighbour', type: neighbourMessage.new, flags: orReplace, format: neighbourFormat, message };
}

export interface PeerNexthop {
  readonly id: number;
  readonly oif: number;
  readonly gateway: string;
  /** RTPROT_*. */
  readonly protocol: number;
  /** RTNH_F_*. */
  readonly flags: number;
}

const nexthopFormat = formatOf<PeerNexthop>('nexthop', (writer, { id, oif, gateway, protocol, flags }) => {
  const family = familyOf(gateway);
  const at = writeHeader(writer, 8); // struct nhmsg
  writer.bytes[at] = family;
  writer.bytes[at + 2] = protocol;
  writer.setU32(at + 4, flags);
  writeNumber(writer, 1, id);
  writeNumber(writer, 5, oif);
  writeAddress(writer, 6, gateway, family);
});

/** As newNexthop: EEXIST where the id is taken. */
export function addNexthop(message: PeerNexthop): NetlinkRequest<never> {
  return { name: 'newNexthop', type: nexthopMessage.new, flags: orFail, format: nexthopFormat, message };
}

export interface PeerRoute {
  /** A block with its prefix length. */
  readonly dst: string;
  /** Id of a nexthop object. */
  readonly nhId: number;
  readonly prefsrc: string;
  /** 0: the kernel's default. */
  readonly priority: number;
  readonly protocol: number;
}

const routeFormat = formatOf<PeerRoute>('route', (writer, { dst, nhId, prefsrc, priority, protocol }) => {
  const slash = dst.indexOf('/');
  const address = dst.slice(0, slash);
  const family = familyOf(address);
  const at = writeHeader(writer, 12); // struct rtmsg
  writer.bytes[at] = family;
  writer.bytes[at + 1] = Number(dst.slice(slash + 1));
  writer.bytes[at + 4] = routeTable.main;
  writer.bytes[at + 5] = protocol;
  writer.bytes[at + 7] = routeType.unicast;
  writeAddress(writer, 1, address, family);
  if (priority > 0) writeNumber(writer, 6, priority);
  writeAddress(writer, 7, prefsrc, family);
  writeNumber(writer, 30, nhId);
});

/** As newRoute through a nexthop object in table main; EEXIST where a route is there, unless it `replaces` that. */
export function putPeerRoute(message: PeerRoute, replaces: boolean): NetlinkRequest<never> {
  const flags = replaces ? orReplace : orFail;
  return { name: 'newRoute', type: routeMessage.new, flags, format: routeFormat, message };
}

interface AddressList extends SetAddress {
  readonly addresses: readonly string[];
}

const addressListFormat = formatOf<AddressList>('set elements', (writer, { family, table, set, addresses }) => {
  writer.bytes[writeHeader(writer, 4)] = family ?? tableFamily.inet; // struct nfgenmsg
  writeText(writer, 1, table);
  writeText(writer, 2, set);
  const list = writer.open(3 | nestedBit);
  for (const address of addresses) {
    const element = writer.open(1 | nestedBit);
    const key = writer.open(1 | nestedBit);
    writeAddress(writer, 1, address, familyOf(address));
    writer.close(key);
    writer.close(element);
  }
  writer.close(list);
});

/** As newSetElement and delSetElement of a set whose keys are single addresses; for `transaction`. */
export function addressElements(
  kind: 'add' | 'del',
  where: SetAddress,
  addresses: readonly string[],
): NetlinkRequest<unknown> {
  const request = kind === 'add' ? newSetElement(where, []) : delSetElement(where, []);
  return { ...request, format: addressListFormat, message: { ...where, addresses } };
}
