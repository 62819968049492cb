// The data of link kinds: vxlan and bridge (linux/if_link.h). Ports are in network byte order on the wire.

import {
  AttributeSet,
  be16,
  be32,
  bool8,
  flag,
  ip,
  lladdr,
  nested,
  u16,
  u32,
  u64,
  u8,
  type Codec,
  type WithUnknown,
} from './attributes.ts';
import { malformed } from './wire.ts';

export interface PortRange {
  readonly low: number;
  readonly high: number;
}

export interface VxlanData extends WithUnknown {
  /** VNI, 24 bits. */
  readonly id?: number;
  readonly group?: string;
  /** Ifindex of the underlay link. */
  readonly link?: number;
  readonly local?: string;
  readonly ttl?: number;
  readonly tos?: number;
  readonly learning?: boolean;
  /** Seconds. */
  readonly ageing?: number;
  readonly limit?: number;
  readonly portRange?: PortRange;
  readonly proxy?: boolean;
  readonly rsc?: boolean;
  readonly l2miss?: boolean;
  readonly l3miss?: boolean;
  /** UDP destination port. */
  readonly port?: number;
  readonly group6?: string;
  readonly local6?: string;
  readonly udpCsum?: boolean;
  readonly udpZeroCsum6Tx?: boolean;
  readonly udpZeroCsum6Rx?: boolean;
  readonly gbp?: true;
  readonly collectMetadata?: boolean;
  readonly label?: number;
  readonly ttlInherit?: boolean;
  readonly df?: number;
  readonly vnifilter?: boolean;
  readonly localbypass?: boolean;
}

const portRange: Codec<PortRange> = {
  write(writer, value) {
    writer.be16(value.low);
    writer.be16(value.high);
  },
  read(bytes, start, end) {
    if (end - start !== 4) throw malformed(`port range of ${end - start} bytes`);
    return { low: bytes.readUInt16BE(start), high: bytes.readUInt16BE(start + 2) };
  },
};

export const vxlanData: Codec<VxlanData> = nested(
  new AttributeSet<VxlanData>({
    id: [1, u32],
    group: [2, ip],
    link: [3, u32],
    local: [4, ip],
    ttl: [5, u8],
    tos: [6, u8],
    learning: [7, bool8],
    ageing: [8, u32],
    limit: [9, u32],
    portRange: [10, portRange],
    proxy: [11, bool8],
    rsc: [12, bool8],
    l2miss: [13, bool8],
    l3miss: [14, bool8],
    port: [15, be16],
    group6: [16, ip],
    local6: [17, ip],
    udpCsum: [18, bool8],
    udpZeroCsum6Tx: [19, bool8],
    udpZeroCsum6Rx: [20, bool8],
    gbp: [23, flag],
    collectMetadata: [25, bool8],
    label: [26, be32],
    ttlInherit: [28, bool8],
    df: [29, u8],
    vnifilter: [30, bool8],
    localbypass: [31, bool8],
  }),
);

/** What a bridge says of one of its ports (IFLA_BRPORT_*). */
export interface BridgePortData extends WithUnknown {
  /** Frames may leave through the port that they came by. */
  readonly mode?: boolean;
  readonly learning?: boolean;
  readonly unicastFlood?: boolean;
  /** BR_STATE_* (linux/if_bridge.h). */
  readonly state?: number;
  readonly mcastFlood?: boolean;
  readonly bcastFlood?: boolean;
  readonly neighSuppress?: boolean;
  readonly isolated?: boolean;
}

export const bridgePortData: Codec<BridgePortData> = nested(
  new AttributeSet<BridgePortData>({
    state: [1, u8],
    mode: [4, bool8],
    learning: [8, bool8],
    unicastFlood: [9, bool8],
    mcastFlood: [27, bool8],
    bcastFlood: [30, bool8],
    neighSuppress: [32, bool8],
    isolated: [33, bool8],
  }),
);

export interface BridgeData extends WithUnknown {
  /** USER_HZ (1/100 s), like the other times of a bridge. */
  readonly forwardDelay?: number;
  readonly helloTime?: number;
  readonly maxAge?: number;
  readonly ageingTime?: number;
  readonly stpState?: number;
  readonly priority?: number;
  readonly vlanFiltering?: boolean;
  readonly groupFwdMask?: number;
  readonly groupAddr?: string;
  readonly mcastRouter?: number;
  readonly mcastSnooping?: boolean;
  readonly mcastQuerier?: boolean;
  readonly mcastMembershipIntvl?: bigint;
  readonly nfCallIptables?: boolean;
  readonly nfCallIp6tables?: boolean;
  readonly nfCallArptables?: boolean;
}

export const bridgeData: Codec<BridgeData> = nested(
  new AttributeSet<BridgeData>({
    forwardDelay: [1, u32],
    helloTime: [2, u32],
    maxAge: [3, u32],
    ageingTime: [4, u32],
    stpState: [5, u32],
    priority: [6, u16],
    vlanFiltering: [7, bool8],
    groupFwdMask: [9, u16],
    groupAddr: [20, lladdr],
    mcastRouter: [22, u8],
    mcastSnooping: [23, bool8],
    mcastQuerier: [25, bool8],
    mcastMembershipIntvl: [31, u64],
    nfCallIptables: [36, bool8],
    nfCallIp6tables: [37, bool8],
    nfCallArptables: [38, bool8],
  }),
);
