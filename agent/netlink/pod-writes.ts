// The writes that make a pod's link, straight into the buffer: every start of a pod waits for them, in a process whose caches have gone
// cold, where the tables of attributes.ts cost three times as much. The layouts are those of link.ts, addr.ts and route.ts; a test
// holds them against each other.
import { addressFlag, addressMessage } from './addr.ts';
import { formatOf, orFail, writeAddress, writeHeader, writeMac, writeNumber, writeText } from './direct-writes.ts';
import { addressFamily, familyOf } from './ip-text.ts';
import { addrGenMode } from './link-af-spec.ts';
import { linkEndsFormat, linkExtMask, linkFlag, linkMessage, type LinkEnds } from './link.ts';
import { messageFlag, type NetlinkRequest } from './message.ts';
import { routeMessage, routeTable, routeType } from './route.ts';
import { eachAttribute, readU32 } from './wire.ts';

/** RT_SCOPE_LINK. */
const scopeLink = 253;

export interface VethPair {
  readonly ifname: string;
  readonly mac: string;
  readonly mtuBytes: number;
  readonly peerIfname: string;
  readonly peerMac: string;
  /** Where the other end is made. */
  readonly netNsFd: number;
  /** Ifindex of the bridge that the first end is a port of. */
  readonly master?: number;
}

const vethFormat = formatOf<VethPair, LinkEnds>(
  'link',
  (writer, { ifname, mac, mtuBytes, peerIfname, peerMac, netNsFd, master }) => {
    writeHeader(writer, 16); // struct ifinfomsg
    const writeEnd = (name: string, address: string): void => {
      writeText(writer, 3, name);
      writeMac(writer, 1, address);
      writeNumber(writer, 4, mtuBytes);
      // A veth has a queue pair per CPU unless told otherwise (veth_get_num_queues), each a kobject with an event of its own; it
      // sends without queueing, so more than one serves nobody.
      writeNumber(writer, 31, 1);
      writeNumber(writer, 32, 1);
    };
    writeEnd(ifname, mac);
    if (master !== undefined) writeNumber(writer, 10, master);
    const info = writer.open(18);
    writeText(writer, 1, 'veth');
    const data = writer.open(2);
    const peer = writer.open(1);
    writeHeader(writer, 16);
    writeEnd(peerIfname, peerMac);
    writeNumber(writer, 28, netNsFd);
    writer.close(peer);
    writer.close(data);
    writer.close(info);
  },
  (bytes, start, end) => linkEndsFormat.read(bytes, start, end),
);

/** As newLink with `echo`: the pair with one queue each; EEXIST where a name is taken. */
export function addVeth(message: VethPair): NetlinkRequest<LinkEnds> {
  const flags = orFail | messageFlag.echo;
  return { name: 'newLink', type: linkMessage.new, flags, format: vethFormat, message };
}

const upFormat = formatOf<{ readonly ifiIndex: number }>('link', (writer, { ifiIndex }) => {
  const at = writeHeader(writer, 16);
  writer.setU32(at + 4, ifiIndex);
  writer.setU32(at + 8, linkFlag.up);
  writer.setU32(at + 12, linkFlag.up);
});

/** As setLink: brings the link up. */
export function setUp(ifiIndex: number): NetlinkRequest<never> {
  return { name: 'setLink', type: linkMessage.new, flags: 0, format: upFormat, message: { ifiIndex } };
}

export interface LinkPlace {
  readonly ifiIndex: number;
  /** The namespace it is in, by the id that the socket's has for it; absent: the socket's own. */
  readonly targetNetnsid?: number;
}

const operstateFormat = formatOf<LinkPlace, number>(
  'link',
  (writer, { ifiIndex, targetNetnsid }) => {
    const at = writeHeader(writer, 16);
    writer.setU32(at + 4, ifiIndex);
    writeNumber(writer, 29, linkExtMask.skipStats);
    if (targetNetnsid !== undefined) writeNumber(writer, 46, targetNetnsid);
  },
  (bytes, start, end) => {
    let operstate = 0;
    eachAttribute(bytes, start + 16, end, (type, from) => {
      if (type !== 16) return undefined;
      operstate = bytes[from] ?? 0;
      return 'enough';
    });
    return operstate;
  },
);

/** As getLink, of whose answer only the operational state is read: IF_OPER_*. */
export function getOperstate(message: LinkPlace): NetlinkRequest<number> {
  return { name: 'getLink', type: linkMessage.get, flags: 0, format: operstateFormat, message };
}

export interface LinkName {
  readonly ifiIndex: number;
  readonly ifalias: string;
  /** The kernel makes no IPv6 address by itself. Refused where IPv6 is off. */
  readonly quietIpv6: boolean;
}

const aliasFormat = formatOf<LinkName>('link', (writer, { ifiIndex, ifalias, quietIpv6 }) => {
  const at = writeHeader(writer, 16);
  writer.setU32(at + 4, ifiIndex);
  writeText(writer, 20, ifalias);
  if (!quietIpv6) return;
  const spec = writer.open(26);
  const inet6 = writer.open(addressFamily.inet6);
  const mode = writer.open(8);
  writer.u8(addrGenMode.none);
  writer.close(mode);
  writer.close(inet6);
  writer.close(spec);
});

/** As setLink: names the link for people and for a lost state directory. */
export function setAlias(message: LinkName): NetlinkRequest<never> {
  return { name: 'setLink', type: linkMessage.new, flags: 0, format: aliasFormat, message };
}

export interface PodAddress {
  readonly ifindex: number;
  readonly address: string;
  readonly prefixLength: number;
  /** RT_SCOPE_*. */
  readonly scope: number;
}

const addressFormat = formatOf<PodAddress>('address', (writer, { ifindex, address, prefixLength, scope }) => {
  const family = familyOf(address);
  const at = writeHeader(writer, 8); // struct ifaddrmsg
  writer.bytes[at] = family;
  writer.bytes[at + 1] = prefixLength;
  writer.bytes[at + 2] = family === addressFamily.inet6 ? addressFlag.nodad : 0;
  writer.bytes[at + 3] = scope;
  writer.setU32(at + 4, ifindex);
  writeAddress(writer, 2, address, family);
  if (family === addressFamily.inet) writeAddress(writer, 1, address, family);
});

/** As newAddress; IPv6 without duplicate detection. */
export function addAddress(message: PodAddress): NetlinkRequest<never> {
  return { name: 'newAddress', type: addressMessage.new, flags: orFail, format: addressFormat, message };
}

export interface LinkRoute {
  readonly oif: number;
  /** A plain address; absent: the default route of the gateway's family. */
  readonly dst?: string;
  readonly gateway?: string;
  readonly prefsrc?: string;
  /** RTPROT_*; absent: unspecified. */
  readonly protocol?: number;
}

const routeFormat = formatOf<LinkRoute>('route', (writer, { oif, dst, gateway, prefsrc, protocol = 0 }) => {
  const family = familyOf(dst ?? gateway ?? '');
  const isIpv4 = family === addressFamily.inet;
  const at = writeHeader(writer, 12); // struct rtmsg
  writer.bytes[at] = family;
  writer.bytes[at + 1] = dst === undefined ? 0 : isIpv4 ? 32 : 128;
  writer.bytes[at + 4] = routeTable.main;
  writer.bytes[at + 5] = protocol;
  writer.bytes[at + 6] = isIpv4 && gateway === undefined ? scopeLink : 0;
  writer.bytes[at + 7] = routeType.unicast;
  if (dst !== undefined) writeAddress(writer, 1, dst, family);
  writeNumber(writer, 4, oif);
  if (gateway !== undefined) writeAddress(writer, 5, gateway, family);
  if (prefsrc !== undefined) writeAddress(writer, 7, prefsrc, family);
});

/** As newRoute in table main: to one address, or the default route; EEXIST where there is one. */
export function addLinkRoute(message: LinkRoute): NetlinkRequest<never> {
  return { name: 'newRoute', type: routeMessage.new, flags: orFail, format: routeFormat, message };
}

/** Takes it back. */
export function delLinkRoute(message: LinkRoute): NetlinkRequest<never> {
  return { name: 'delRoute', type: routeMessage.delete, flags: 0, format: routeFormat, message };
}

/** What tells default routes apart. */
export interface DefaultRoute {
  readonly table: number;
  /** Absent: several links, or a nexthop object. */
  readonly oif?: number;
}

const defaultsFormat = formatOf<object, DefaultRoute | undefined>(
  'route',
  (writer) => {
    const at = writeHeader(writer, 12);
    writer.bytes[at + 7] = routeType.unicast;
  },
  (bytes, start, end) => {
    const isDefault = bytes[start + 1] === 0 && bytes[start + 7] === routeType.unicast;
    if (!isDefault) return undefined;
    let table = bytes[start + 4] ?? 0;
    let oif: number | undefined;
    eachAttribute(bytes, start + 12, end, (type, from) => {
      if (type === 15) table = readU32(bytes, from);
      if (type === 4) oif = readU32(bytes, from);
    });
    return oif === undefined ? { table } : { table, oif };
  },
);

/** As dumpRoutes, of unicast routes; each that is no default route is answered by undefined. */
export function dumpDefaultRoutes(): NetlinkRequest<DefaultRoute | undefined> {
  return { name: 'dumpRoutes', type: routeMessage.get, flags: messageFlag.dump, format: defaultsFormat, message: {} };
}
