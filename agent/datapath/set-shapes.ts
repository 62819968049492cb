// The moving sets and maps of `table inet weft` as one table: for each its key's fields and its data. From it come the
// declaration, an element as text, as a netlink message and back (set-codec.ts). Between those an element is a string as nft
// prints it (`ifname . address` without quotes, `key : data` in a map of addresses), so that two states differ by strings. A link that
// the kernel knows by its number is a name here, as everywhere in planning; a number that no link has is `#17`. Pure.

/** nft's names of types. */
export type Field = 'ifname' | 'iface_index' | 'ether_addr' | 'ipv4_addr' | 'ipv6_addr' | 'inet_proto' | 'inet_service';

export interface SetShape {
  readonly key: readonly Field[];
  /** A map's data. */
  readonly data?: readonly Field[];
  /** Family of the table that holds it; absent: inet. */
  readonly table?: 'bridge';
  /** The key's last field is a CIDR block. */
  readonly interval?: true;
}

export type SetName =
  | 'peers4'
  | 'peers6'
  | 'sources4'
  | 'sources6'
  | 'bridged4'
  | 'bridged6'
  | 'direct4'
  | 'direct6'
  | 'ports4'
  | 'ports6'
  | 'ports_at4'
  | 'ports_at6'
  | 'hairpin4'
  | 'hairpin6';

const shapes: Readonly<Record<SetName, SetShape>> = {
  peers4: { key: ['ipv4_addr'] },
  peers6: { key: ['ipv6_addr'] },
  sources4: { key: ['iface_index', 'ipv4_addr'] },
  sources6: { key: ['iface_index', 'ipv6_addr'] },
  bridged4: { key: ['ifname', 'ipv4_addr'], table: 'bridge' },
  bridged6: { key: ['ifname', 'ipv6_addr'], table: 'bridge' },
  direct4: { key: ['ether_addr', 'ipv4_addr'], interval: true },
  direct6: { key: ['ether_addr', 'ipv6_addr'], interval: true },
  ports4: { key: ['inet_proto', 'inet_service'], data: ['ipv4_addr', 'inet_service'] },
  ports6: { key: ['inet_proto', 'inet_service'], data: ['ipv6_addr', 'inet_service'] },
  ports_at4: { key: ['ipv4_addr', 'inet_proto', 'inet_service'], data: ['ipv4_addr', 'inet_service'] },
  ports_at6: { key: ['ipv6_addr', 'inet_proto', 'inet_service'], data: ['ipv6_addr', 'inet_service'] },
  hairpin4: { key: ['ipv4_addr', 'ipv4_addr'] },
  hairpin6: { key: ['ipv6_addr', 'ipv6_addr'] },
};

/** One element of one set. */
export interface ElementRef {
  readonly set: SetName;
  readonly key: string;
}

export type SetElements = Readonly<Record<SetName, ReadonlySet<string>>>;

export const setNames: readonly SetName[] = Object.keys(shapes) as readonly SetName[];

/** Sets whose elements come from leases. */
export const podSets: readonly SetName[] = setNames.filter((set) => !/^(peers|direct)/.test(set));

export function noElements(): SetElements {
  const none: ReadonlySet<string> = new Set();
  return Object.fromEntries(setNames.map((name) => [name, none])) as unknown as SetElements;
}

/** What a set's elements are made of. */
export function shapeOf(set: SetName): SetShape {
  return shapes[set];
}

/** The element's key without its data: what the kernel tells elements of a map apart by. */
export function keyOf(element: string): string {
  const end = element.indexOf(' : ');
  return end === -1 ? element : element.slice(0, end);
}

/** Family of the table that holds the set. */
export function tableOf(set: SetName): 'inet' | 'bridge' {
  return shapes[set].table ?? 'inet';
}

/** nft's declaration of the empty set. */
export function declarationOf(set: SetName): string {
  const { key, data, interval } = shapeOf(set);
  const type = key.join(' . ');
  if (data === undefined) return `set ${set} { type ${type};${interval ? ' flags interval;' : ''} }`;
  return `map ${set} { type ${type} : ${data.join(' . ')}; }`;
}

/** The number of a link; undefined where there is none of that name. */
export type IndexOf = (ifname: string) => number | undefined;

/** The name of a link, `#17` where no link has the number. */
export type NameOf = (ifindex: number) => string;

/** The element as the kernel is told it, with the number in place of the link's name; undefined: there is no such link. */
export function resolved(set: SetName, element: string, indexOf: IndexOf): string | undefined {
  if (shapeOf(set).key[0] !== 'iface_index') return element;
  const end = element.indexOf(' . ');
  const ifname = element.slice(0, end);
  const ifindex = ifname.startsWith('#') ? Number(ifname.slice(1)) : indexOf(ifname);
  return ifindex === undefined ? undefined : ifindex + element.slice(end);
}

/** A resolved element in nft's language. */
export function elementText(set: SetName, element: string): string {
  const { key, data } = shapeOf(set);
  const [keyText = '', dataText] = element.split(' : ');
  const quoted = keyText.split(' . ').map((text, index) => (key[index] === 'ifname' ? `"${text}"` : text));
  const head = quoted.join(' . ');
  return data === undefined ? head : `${head} : ${dataText}`;
}
