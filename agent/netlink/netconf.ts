// What each link is set to as a router (linux/netconf.h): one small message a link, where the link itself comes with kilobytes.

import { addressFamily } from './ip-text.ts';
import { AttributeSet, s32, type WithUnknown } from './attributes.ts';
import { messageFlag, MessageFormat, type NetlinkRequest } from './message.ts';

const netconfMessage = { new: 80, delete: 81, get: 82 } as const;

export interface NetconfHeader {
  readonly ncmFamily: number;
}

export interface NetconfAttributes extends WithUnknown {
  /** -1: all links, -2: links to come. */
  readonly ifindex?: number;
  readonly forwarding?: number;
  readonly rpFilter?: number;
}

export type Netconf = NetconfHeader & NetconfAttributes;

const netconfFormat: MessageFormat<NetconfHeader, NetconfAttributes> = new MessageFormat<
  NetconfHeader,
  NetconfAttributes
>(
  'netconf',
  1,
  { ncmFamily: [0, 'u8'] },
  new AttributeSet<NetconfAttributes>({ ifindex: [1, s32], forwarding: [2, s32], rpFilter: [3, s32] }),
);

/** IPv4's of every link, and of all and default. */
export function dumpNetconf(): NetlinkRequest<Netconf> {
  const message = { ncmFamily: addressFamily.inet };
  return { name: 'dumpNetconf', type: netconfMessage.get, flags: messageFlag.dump, format: netconfFormat, message };
}
