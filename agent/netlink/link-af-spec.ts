// IFLA_AF_SPEC: a link's per-family settings. The kernel is not symmetric: IFLA_INET_CONF is an array of u32 in its answers and
// nested attributes (number = IPV4_DEVCONF_*) in requests; IPv6's conf is read-only here (use /proc/sys/net in the namespace).

import { AttributeSet, binary, ip, nested, u32, u8, type Codec, type WithUnknown } from './attributes.ts';
import { malformed, readU32 } from './wire.ts';

/** IPV4_DEVCONF_* (linux/ip.h), named as YNL's ipv4-devconf names them. */
const ipv4Devconf = {
  forwarding: 1,
  mcForwarding: 2,
  proxyArp: 3,
  acceptRedirects: 4,
  secureRedirects: 5,
  sendRedirects: 6,
  sharedMedia: 7,
  rpFilter: 8,
  acceptSourceRoute: 9,
  bootpRelay: 10,
  logMartians: 11,
  tag: 12,
  arpfilter: 13,
  mediumId: 14,
  noxfrm: 15,
  nopolicy: 16,
  forceIgmpVersion: 17,
  arpAnnounce: 18,
  arpIgnore: 19,
  promoteSecondaries: 20,
  arpAccept: 21,
  arpNotify: 22,
  acceptLocal: 23,
  srcVmark: 24,
  proxyArpPvlan: 25,
  routeLocalnet: 26,
  igmpv2UnsolicitedReportInterval: 27,
  igmpv3UnsolicitedReportInterval: 28,
  ignoreRoutesWithLinkdown: 29,
  dropUnicastInL2Multicast: 30,
  dropGratuitousArp: 31,
  bcForwarding: 32,
  arpEvictNocarrier: 33,
} as const;

export type Ipv4DevconfKey = keyof typeof ipv4Devconf;
export type Ipv4Devconf = { readonly [Key in Ipv4DevconfKey]?: number };

const devconfKeys = Object.keys(ipv4Devconf) as readonly Ipv4DevconfKey[];

/** Copied for each answer: an object that has its shape from the start is filled many times faster than one that grows. */
const allZero: Ipv4Devconf = Object.fromEntries(devconfKeys.map((key) => [key, 0]));

export interface InetSpec extends WithUnknown {
  readonly conf?: Ipv4Devconf;
}

/** IN6_ADDR_GEN_MODE_*. */
export const addrGenMode = { eui64: 0, none: 1, stablePrivacy: 2, random: 3 } as const;

export interface Inet6Spec extends WithUnknown {
  readonly flags?: number;
  readonly conf?: Uint8Array;
  readonly token?: string;
  readonly addrGenMode?: number;
  readonly raMtu?: number;
}

export interface AddressFamilySpec extends WithUnknown {
  readonly inet?: InetSpec;
  readonly inet6?: Inet6Spec;
}

const conf: Codec<Ipv4Devconf> = {
  write(writer, value) {
    for (const key of devconfKeys) {
      const setting = value[key];
      if (setting === undefined) continue;
      const at = writer.open(ipv4Devconf[key]);
      writer.u32(setting);
      writer.close(at);
    }
  },
  read(bytes, start, end) {
    if ((end - start) % 4 !== 0) throw malformed(`IPv4 devconf of ${end - start} bytes`);
    const count = Math.min(devconfKeys.length, (end - start) / 4);
    const value: { [Key in Ipv4DevconfKey]?: number } = count === devconfKeys.length ? { ...allZero } : {};
    for (let i = 0; i < count; i += 1) value[devconfKeys[i] as Ipv4DevconfKey] = readU32(bytes, start + i * 4);
    return value;
  },
};

const inetSpec: Codec<InetSpec> = nested(new AttributeSet<InetSpec>({ conf: [1, conf] }));

const inet6Spec: Codec<Inet6Spec> = nested(
  new AttributeSet<Inet6Spec>({
    flags: [1, u32],
    conf: [2, binary],
    token: [7, ip],
    addrGenMode: [8, u8],
    raMtu: [9, u32],
  }),
);

const familySpec: AttributeSet<AddressFamilySpec> = new AttributeSet<AddressFamilySpec>({
  inet: [2, inetSpec],
  inet6: [10, inet6Spec],
});

/** A bridge dump (AF_BRIDGE) puts port attributes here instead; they stay unknown. */
export const ifaceSpec: Codec<AddressFamilySpec> = nested(familySpec);
