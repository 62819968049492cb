// Traffic control: qdiscs and filters (linux/pkt_sched.h, linux/pkt_cls.h; names as YNL's tc spec has them). Kinds with own data:
// the tbf qdisc, and the u32 filter in the one shape that is needed, "every packet to another link's egress".

import { AttributeSet, binary, listOf, nested, string, u32, u64, type Codec, type WithUnknown } from './attributes.ts';
import { createFlags, messageFlag, MessageFormat, type CreateOptions, type NetlinkRequest } from './message.ts';
import { malformed, readS32, readU32, Writer } from './wire.ts';

export const qdiscMessage = { new: 36, delete: 37, get: 38 } as const;
export const filterMessage = { new: 44, delete: 45, get: 46 } as const;

/** TC_H_*: where a qdisc or filter hangs. */
export const tcParent = { root: 0xffff_ffff, clsact: 0xffff_fff1, clsactIngress: 0xffff_fff2 } as const;
/** Handle that a clsact qdisc always has. */
const clsactHandle = 0xffff_0000;

export interface TcHeader {
  readonly family: number;
  readonly ifindex: number;
  readonly handle: number;
  readonly parent: number;
  /** Of filters: priority in the upper half, EtherType in network byte order in the lower one. */
  readonly info: number;
}

/** struct tc_tbf_qopt: what of it matters. */
export interface TbfParms {
  /** Bytes a second; 2^32-1 where `rate64` holds more. */
  readonly rate: number;
  /** Bytes that may wait. */
  readonly limit: number;
  /** Time in ticks of 64 ns in which `burst` bytes pass at the rate; answers only. */
  readonly buffer: number;
}

export interface TbfOptions extends WithUnknown {
  readonly parms?: TbfParms;
  readonly rate64?: bigint;
  /** Bytes; requests only. */
  readonly burst?: number;
}

export interface TcAttributes extends WithUnknown {
  readonly kind?: string;
  /** By `kind`: see tbfOptions, redirectTarget. */
  readonly options?: Uint8Array;
}

export type TcObject = TcHeader & TcAttributes;

export const tcFormat: MessageFormat<TcHeader, TcAttributes> = new MessageFormat<TcHeader, TcAttributes>(
  'traffic control',
  20,
  { family: [0, 'u8'], ifindex: [4, 's32'], handle: [8, 'u32'], parent: [12, 'u32'], info: [16, 'u32'] },
  new AttributeSet<TcAttributes>({ kind: [1, string], options: [2, binary] }),
);

const tbfParmsBytes = 36;

const tbfParms: Codec<TbfParms> = {
  write(writer, { rate, limit, buffer }) {
    // struct tc_ratespec { cell_log, linklayer, overhead, cell_align, mpu, rate }: Ethernet needs no table of costs.
    writeRateSpec(writer, rate);
    writeRateSpec(writer, 0);
    writer.u32(limit);
    writer.u32(buffer);
    writer.u32(0);
  },
  read(bytes, start, end) {
    if (end - start < tbfParmsBytes) throw malformed(`tbf parameters of ${end - start} bytes`);
    return { rate: readU32(bytes, start + 8), limit: readU32(bytes, start + 24), buffer: readU32(bytes, start + 28) };
  },
};

const linkLayerEthernet = 1;

function writeRateSpec(writer: Writer, rate: number): void {
  writer.u8(0);
  writer.u8(rate === 0 ? 0 : linkLayerEthernet);
  writer.u16(0);
  writer.u16(0);
  writer.u16(0);
  writer.u32(rate);
}

const tbfSet: AttributeSet<TbfOptions> = new AttributeSet<TbfOptions>({
  parms: [1, tbfParms],
  rate64: [4, u64],
  burst: [6, u32],
});

const mirredParmsBytes = 28;
/** TC_ACT_STOLEN, TCA_EGRESS_REDIR. */
const stolen = 4;
const egressRedirect = 1;

/** struct tc_mirred as the ifindex of a redirection to a link's egress; anything else reads as 0. */
const mirredRedirect: Codec<number> = {
  write(writer, ifindex) {
    for (const word of [0, 0, stolen, 0, 0, egressRedirect, ifindex]) writer.u32(word);
  },
  read(bytes, start, end) {
    if (end - start < mirredParmsBytes) throw malformed(`mirred parameters of ${end - start} bytes`);
    const redirects = readS32(bytes, start + 8) === stolen && readS32(bytes, start + 20) === egressRedirect;
    return redirects ? readU32(bytes, start + 24) : 0;
  },
};

interface Action extends WithUnknown {
  readonly kind?: string;
  readonly options?: { readonly redirect?: number };
}

interface U32Options extends WithUnknown {
  readonly selector?: Uint8Array;
  readonly actions?: readonly Action[];
}

const action: Codec<Action> = nested(
  new AttributeSet<Action>({
    kind: [1, string],
    options: [2, nested(new AttributeSet<NonNullable<Action['options']>>({ redirect: [2, mirredRedirect] }))],
  }),
);

const u32Set: AttributeSet<U32Options> = new AttributeSet<U32Options>({
  selector: [5, binary],
  actions: [7, listOf(1, action)],
});

/** struct tc_u32_sel, TC_U32_TERMINAL, with one key whose mask is 0: every packet. */
const everyPacket = new Uint8Array(32);
everyPacket[0] = 1;
everyPacket[2] = 1;

function optionsOf<Options extends object>(set: AttributeSet<Options>, options: Options): Uint8Array {
  const writer = new Writer(128);
  set.write(writer, options);
  return new Uint8Array(writer.bytes.subarray(0, writer.length));
}

/** What a tbf qdisc of an answer does; undefined for another kind. */
export function tbfOptions(qdisc: TcObject): TbfOptions | undefined {
  if (qdisc.kind !== 'tbf' || qdisc.options === undefined) return undefined;
  const bytes = Buffer.from(qdisc.options);
  return tbfSet.read(bytes, 0, bytes.length);
}

/** The ifindex to whose egress a u32 filter of an answer sends its packets; undefined where it does not. */
export function redirectTarget(filter: TcObject): number | undefined {
  if (filter.kind !== 'u32' || filter.options === undefined) return undefined;
  const bytes = Buffer.from(filter.options);
  const [first] = u32Set.read(bytes, 0, bytes.length).actions ?? [];
  return first?.kind === 'mirred' ? first.options?.redirect || undefined : undefined;
}

/** Ticks of `TbfParms.buffer` for a burst at a rate, as the kernel counts them (64 ns, 32 bits). */
export function tbfTicks(burstBytes: number, bytesPerSecond: number): number {
  return Number(BigInt.asUintN(32, (BigInt(burstBytes) * 1_000_000_000n) / BigInt(bytesPerSecond) / 64n));
}

const maxU32 = 0xffff_ffff;

/** RTM_NEWQDISC: a token bucket at the link's root. Rates in bytes a second, the rest in bytes. */
export function newTbf(
  ifindex: number,
  tbf: { readonly bytesPerSecond: number; readonly burstBytes: number; readonly limitBytes: number },
  options: CreateOptions = { replace: true },
): NetlinkRequest<TcObject> {
  const { bytesPerSecond, burstBytes, limitBytes } = tbf;
  const parms = {
    rate: Math.min(bytesPerSecond, maxU32),
    limit: limitBytes,
    buffer: tbfTicks(burstBytes, bytesPerSecond),
  };
  return request('newTbf', qdiscMessage.new, createFlags(options), {
    ifindex,
    parent: tcParent.root,
    kind: 'tbf',
    options: optionsOf(tbfSet, {
      parms,
      ...(bytesPerSecond > maxU32 ? { rate64: BigInt(bytesPerSecond) } : {}),
      burst: burstBytes,
    }),
  });
}

/** RTM_NEWQDISC: the place for filters on what a link receives. EEXIST where it is there. */
export function newClsact(ifindex: number): NetlinkRequest<TcObject> {
  return request('newClsact', qdiscMessage.new, createFlags({}), {
    ifindex,
    parent: tcParent.clsact,
    handle: clsactHandle,
    kind: 'clsact',
  });
}

/** RTM_DELQDISC of the same, with its filters. */
export function delClsact(ifindex: number): NetlinkRequest<TcObject> {
  return request('delClsact', qdiscMessage.delete, 0, { ifindex, parent: tcParent.clsact });
}

/** ETH_P_ALL in network byte order, as the low half of a filter's info has it on a little-endian machine. */
const everyEtherType = new Uint16Array(Uint8Array.of(0x00, 0x03).buffer)[0] ?? 0;

/** RTM_NEWTFILTER: whatever the link receives goes to the egress of another link. */
export function newRedirect(ifindex: number, toIfindex: number): NetlinkRequest<TcObject> {
  return request('newRedirect', filterMessage.new, createFlags({}), {
    ifindex,
    parent: tcParent.clsactIngress,
    info: (1 << 16) | everyEtherType,
    kind: 'u32',
    options: optionsOf(u32Set, {
      selector: everyPacket,
      actions: [{ kind: 'mirred', options: { redirect: toIfindex } }],
    }),
  });
}

/** All qdiscs of all links, or of one. */
export function dumpQdiscs(ifindex: number = 0): NetlinkRequest<TcObject> {
  return request('dumpQdiscs', qdiscMessage.get, messageFlag.dump, { ifindex });
}

/** The filters on what one link receives; nothing where it has no clsact qdisc. */
export function dumpIngressFilters(ifindex: number): NetlinkRequest<TcObject> {
  return request('dumpIngressFilters', filterMessage.get, messageFlag.dump, {
    ifindex,
    parent: tcParent.clsactIngress,
  });
}

function request(
  name: string,
  type: number,
  flags: number,
  message: Partial<TcHeader> & TcAttributes,
): NetlinkRequest<TcObject> {
  return { name, type, flags, format: tcFormat, message };
}
