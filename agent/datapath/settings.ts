// What the datapath may be told. Every value has a default that works; agent/config.ts fills the type from its schema.
import type { OverlayMode } from './direct.ts';

export type PodLinkKind = 'routed' | 'bridge';

export interface DatapathSettings {
  /** How new pods are linked: each by a routed veth, or as ports of one bridge (bridge.ts). */
  readonly podLink: PodLinkKind;
  /** Name of that bridge; must not begin with `podLinkPrefix`. */
  readonly bridgeDevice: string;
  /** Link of the node that pods with `ipam.type: dhcp` reach their segment by (segment-plan.ts); '' where there are none. */
  readonly dhcpUplink: string;
  /** How packets reach peers on the same link: direct.ts says which. */
  readonly overlayMode: OverlayMode;
  /** Name of the VXLAN device: ours by name, so one agent per network namespace. */
  readonly overlayDevice: string;
  /** Its number, if nobody has it: so that rules can tell it by a constant from the first moment on. */
  readonly overlayIfindex: number;
  /** Prefix of every host end of a pod's veth; at most 8 characters. */
  readonly podLinkPrefix: string;
  /** Prefix of the ifb through which what a pod sends is limited; as long as `podLinkPrefix`. */
  readonly shaperPrefix: string;
  /** UDP port of the overlay; 6784 is Weave's, 4789 and 8472 are claimed by others. */
  readonly vxlanPort: number;
  /** VXLAN network identifier, 24 bits. */
  readonly vni: number;
  /** MTU of the overlay and of pods in bytes; 0: the underlay link's less the overlay's header. */
  readonly mtuBytes: number;
  /** Route protocol number that marks routes and nexthops as ours (rtnetlink(7), 1-255). */
  readonly routeProtocol: number;
  /** Metric of the unreachable routes for the pool: the lowest preference there is. */
  readonly poolMetric: number;
  /** Link group of pod links that wait for their deletion. */
  readonly doomedGroup: number;
  /** Name of the one nft table, family inet. */
  readonly nftTable: string;
  /** CIDRs to which pods keep their own source address when they leave the overlay. */
  readonly nonMasqueradeCidrs: readonly string[];
  /** False: pods keep their own source address everywhere. */
  readonly masquerade: boolean;
  /** This node's underlay address, used until the own record names one. */
  readonly underlayAddress: string | undefined;
  /** Time between two full comparisons with the kernel. */
  readonly comparePeriodMs: number;
  /** How long nothing may happen before doomed pod links are deleted, and the longest that they wait. */
  readonly reapQuietMs: number;
  readonly reapLatestMs: number;
  /** Root of the sysctl tree. */
  readonly sysctlRoot: string;
  /** Network namespace to work in; undefined: the process' own. */
  readonly netnsPath: string | undefined;
}

export const defaultDatapathSettings: DatapathSettings = {
  podLink: 'routed',
  bridgeDevice: 'weftbr0',
  dhcpUplink: '',
  overlayMode: 'vxlan',
  overlayDevice: 'weft0',
  overlayIfindex: 1_463_112_277,
  podLinkPrefix: 'weftp',
  shaperPrefix: 'weftb',
  vxlanPort: 6784,
  vni: 6784,
  mtuBytes: 0,
  routeProtocol: 87,
  poolMetric: 4_294_967_295,
  doomedGroup: 1_463_112_276,
  nftTable: 'weft',
  nonMasqueradeCidrs: [],
  masquerade: true,
  underlayAddress: undefined,
  comparePeriodMs: 10_000,
  reapQuietMs: 25,
  reapLatestMs: 500,
  sysctlRoot: '/proc/sys',
  netnsPath: undefined,
};
