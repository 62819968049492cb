// Bandwidth limits of a pod, as kernel objects. Pure.
//
//   towards the pod:  host ─▶ weftpXXXX (tbf) ─▶ veth ─▶ pod
//   from the pod:     pod ─▶ veth ─▶ weftpXXXX (clsact ingress, u32: everything) ─▶ weftbXXXX, an ifb (tbf) ─▶ on as if it had
//                     come in by weftpXXXX
//
// The limit of what a pod sends is on the node's side of the link, where the pod cannot take it off, and it shapes: packets wait
// instead of being dropped, which TCP takes better (docs/decisions/041). It is what the reference plugin `bandwidth` makes.
import type { BandwidthLimit, Lease } from '#agent/runtime/ipam.ts';

/** A token bucket, in the kernel's units. */
export interface Bucket {
  readonly bytesPerSecond: number;
  readonly burstBytes: number;
  readonly limitBytes: number;
}

export interface DesiredShaping {
  /** Host end of the pod's link. */
  readonly ifname: string;
  /** Name of the ifb that what the pod sends goes through; there only with `egress`. */
  readonly shaper: string;
  /** Towards the pod. */
  readonly ingress?: Bucket;
  /** From the pod. */
  readonly egress?: Bucket;
}

/** What there is of a pod's shaping; undefined members: not there, or not as we make it. */
export interface ActualShaping {
  readonly ifname: string;
  readonly ingress: ActualBucket | undefined;
  readonly egress: ActualBucket | undefined;
}

export interface ActualBucket {
  readonly bytesPerSecond: number;
  readonly bufferTicks: number;
  readonly limitBytes: number;
}

const maxU32 = 0xffff_ffff;
/** How long a packet may wait for its turn at most, besides the burst (the reference plugin's figure). */
const latencySeconds = 0.025;

function bucketOf({ bitsPerSecond, burstBits }: BandwidthLimit): Bucket {
  const bytesPerSecond = Math.floor(bitsPerSecond / 8);
  const burstBytes = Math.min(Math.floor(burstBits / 8), maxU32);
  const limitBytes = Math.min(Math.floor(bytesPerSecond * latencySeconds) + burstBytes, maxU32);
  return { bytesPerSecond, burstBytes, limitBytes };
}

/** The limit of which this bucket was made. */
export function limitOf({ bytesPerSecond, limitBytes }: ActualBucket): BandwidthLimit {
  const burstBytes = limitBytes - Math.floor(bytesPerSecond * latencySeconds);
  return { bitsPerSecond: bytesPerSecond * 8, burstBits: Math.max(burstBytes, 1) * 8 };
}

/** Name of the ifb of a pod link: the same digits. */
export function shaperName(
  hostIfname: string,
  names: { readonly podLinkPrefix: string; readonly shaperPrefix: string },
): string {
  return names.shaperPrefix + hostIfname.slice(names.podLinkPrefix.length);
}

/** Undefined where the lease has no limits. */
export function desiredShaping(
  lease: Pick<Lease, 'hostIfname' | 'link'>,
  names: { readonly podLinkPrefix: string; readonly shaperPrefix: string },
): DesiredShaping | undefined {
  const { ingress, egress } = lease.link?.bandwidth ?? {};
  if (!ingress && !egress) return undefined;
  return {
    ifname: lease.hostIfname,
    shaper: shaperName(lease.hostIfname, names),
    ...(ingress ? { ingress: bucketOf(ingress) } : {}),
    ...(egress ? { egress: bucketOf(egress) } : {}),
  };
}

/** Which directions are not as they should be. `ticksOf` is the kernel's arithmetic (traffic-control.ts). */
export function shapingFaults(
  wanted: DesiredShaping,
  found: ActualShaping | undefined,
  ticksOf: (burstBytes: number, bytesPerSecond: number) => number,
): readonly ('ingress' | 'egress')[] {
  return (['ingress', 'egress'] as const).filter((direction) => {
    const bucket = wanted[direction];
    const actual = found?.[direction];
    if (!bucket) return false;
    const ticks = ticksOf(bucket.burstBytes, bucket.bytesPerSecond);
    return (
      actual?.bytesPerSecond !== bucket.bytesPerSecond ||
      actual.limitBytes !== bucket.limitBytes ||
      // The kernel rounds when it turns bytes into time.
      Math.abs(actual.bufferTicks - ticks) > Math.max(16, ticks / 1000)
    );
  });
}
