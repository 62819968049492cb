// The frame of an nfnetlink batch: BATCH_BEGIN, the requests, BATCH_END. The kernel applies all of them or none.

import { AttributeSet, u32, type WithUnknown } from './attributes.ts';
import { MessageFormat, type NetlinkRequest } from './message.ts';
import { readU16 } from './wire.ts';

export const nfnetlinkSubsystem = { conntrack: 1, nftables: 10 } as const;

const batchBegin = 16;
const batchEnd = 17;

/** struct nfgenmsg; `resId` is in network byte order on the wire. */
export interface NfgenHeader {
  readonly nfgenFamily: number;
  readonly version: number;
  readonly resId: number;
}

interface BatchAttributes extends WithUnknown {
  readonly genid?: number;
}

const batchFormat: MessageFormat<NfgenHeader, BatchAttributes> = new MessageFormat<NfgenHeader, BatchAttributes>(
  'nfnetlink batch',
  4,
  { nfgenFamily: [0, 'u8'], version: [1, 'u8'], resId: [2, 'u16'] },
  new AttributeSet<BatchAttributes>({ genid: [1, u32] }),
);

/** The 16-bit number whose bytes in host order are `value` in network order. */
function networkOrder16(value: number): number {
  return readU16(Buffer.from([value >> 8, value & 0xff]), 0);
}

function frame(name: string, type: number): NetlinkRequest<unknown> {
  return { name, type, flags: 0, format: batchFormat, message: { resId: networkOrder16(nfnetlinkSubsystem.nftables) } };
}

const begin = frame('nftables transaction', batchBegin);
const end = frame('nftables transaction', batchEnd);

export function openTransaction(requests: readonly NetlinkRequest<unknown>[]): readonly NetlinkRequest<unknown>[] {
  return [begin, ...requests, end];
}
