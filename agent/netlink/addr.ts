// Addresses of links: rt-addr of the kernel's YNL specs (linux/if_addr.h).

import { AttributeSet, ip, string, u32, u8, type WithUnknown } from './attributes.ts';
import { addressFamily, familyOf } from './ip-text.ts';
import { createFlags, messageFlag, MessageFormat, type CreateOptions, type NetlinkRequest } from './message.ts';

export const addressMessage = { new: 20, delete: 21, get: 22 } as const;

/** IFA_F_*; values above 0xff need the attribute `flags`. */
export const addressFlag = {
  secondary: 0x1,
  nodad: 0x2,
  homeaddress: 0x8,
  tentative: 0x40,
  permanent: 0x80,
  noprefixroute: 0x200,
} as const;

export const scope = { universe: 0, site: 200, link: 253, host: 254, nowhere: 255 } as const;

export interface AddressHeader {
  readonly ifaFamily: number;
  readonly ifaPrefixlen: number;
  readonly ifaFlags: number;
  readonly ifaScope: number;
  readonly ifaIndex: number;
}

export interface AddressAttributes extends WithUnknown {
  /** The prefix' address; on a point-to-point link the peer's. */
  readonly address?: string;
  /** The address itself, IPv4. */
  readonly local?: string;
  readonly label?: string;
  readonly broadcast?: string;
  readonly flags?: number;
  readonly rtPriority?: number;
  /** IFAPROT_*: who made it. */
  readonly proto?: number;
}

export type Address = AddressHeader & AddressAttributes;
export type AddressRequest = Partial<AddressHeader> & AddressAttributes;

export const addressFormat: MessageFormat<AddressHeader, AddressAttributes> = new MessageFormat<
  AddressHeader,
  AddressAttributes
>(
  'address',
  8,
  { ifaFamily: [0, 'u8'], ifaPrefixlen: [1, 'u8'], ifaFlags: [2, 'u8'], ifaScope: [3, 'u8'], ifaIndex: [4, 'u32'] },
  new AttributeSet<AddressAttributes>({
    address: [1, ip],
    local: [2, ip],
    label: [3, string],
    broadcast: [4, ip],
    flags: [8, u32],
    rtPriority: [9, u32],
    proto: [11, u8],
  }),
);

/** Family and, for IPv4, both address attributes from whichever is given. */
function complete(request: AddressRequest): AddressRequest {
  const text = request.local ?? request.address;
  if (text === undefined) return request;
  const ifaFamily = request.ifaFamily ?? familyOf(text);
  if (ifaFamily === addressFamily.inet6) return { ifaFamily, ...request };
  return { ifaFamily, local: text, address: text, ...request };
}

/** RTM_NEWADDR of `address` with `ifaPrefixlen` on `ifaIndex`. */
export function newAddress(address: AddressRequest, options: CreateOptions = {}): NetlinkRequest<Address> {
  const flags = createFlags(options);
  return { name: 'newAddress', type: addressMessage.new, flags, format: addressFormat, message: complete(address) };
}

/** RTM_DELADDR; EADDRNOTAVAIL where there is none. */
export function delAddress(address: AddressRequest): NetlinkRequest<Address> {
  return {
    name: 'delAddress',
    type: addressMessage.delete,
    flags: 0,
    format: addressFormat,
    message: complete(address),
  };
}

/** All addresses; `ifaFamily` and `ifaIndex` filter in the kernel. */
export function dumpAddresses(
  filter: Partial<Pick<AddressHeader, 'ifaFamily' | 'ifaIndex'>> = {},
): NetlinkRequest<Address> {
  return {
    name: 'dumpAddresses',
    type: addressMessage.get,
    flags: messageFlag.dump,
    format: addressFormat,
    message: filter,
  };
}
