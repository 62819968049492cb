// Records what the kernel says, byte for byte, into fixtures.json: makes objects with iproute2 and nft in a throw-away network
// namespace, then dumps them through the addon with hand-made requests, so that no codec is involved. Needs root:
//   node test/unit/netlink/record-fixtures.ts
import { writeFileSync } from 'node:fs';
import { release } from 'node:os';

import { nativeAddon } from '#agent/native/addon.ts';
import { TestNetns } from '#test/support/netns.ts';

interface Fixture {
  readonly name: string;
  readonly made: readonly string[];
  readonly format: string;
  /** One message's payload behind the nlmsghdr, hexadecimal. */
  readonly hex: string;
}

interface Source {
  readonly name: string;
  readonly format: string;
  readonly made: readonly string[];
  readonly protocol: number;
  readonly request: { readonly type: number; readonly payload: Buffer };
  /** Which of the dump's messages: one whose payload holds these bytes. */
  readonly holds: Buffer;
}

function attribute(type: number, payload: Buffer): Buffer {
  const padded = Buffer.alloc((4 + payload.length + 3) & ~3);
  padded.writeUInt16LE(4 + payload.length, 0);
  padded.writeUInt16LE(type, 2);
  payload.copy(padded, 4);
  return padded;
}

function text(value: string): Buffer {
  return Buffer.from(`${value}\0`);
}

const linkDump = { type: 18, payload: Buffer.concat([Buffer.alloc(16), attribute(29, Buffer.from([8, 0, 0, 0]))]) };
const addressDump = { type: 22, payload: Buffer.alloc(8) };
const routeDump = { type: 26, payload: Buffer.alloc(12) };
const neighbourDump = { type: 30, payload: Buffer.alloc(12) };
const fdbDump = { type: 30, payload: Buffer.concat([Buffer.from([7]), Buffer.alloc(11)]) };
const nexthopDump = { type: 106, payload: Buffer.alloc(8) };

function elementDump(set: string): Source['request'] {
  return {
    type: (10 << 8) | 13,
    payload: Buffer.concat([Buffer.from([1, 0, 0, 0]), attribute(1, text('t')), attribute(2, text(set))]),
  };
}

const hex = (value: string): Buffer => Buffer.from(value.replaceAll(/[:. ]/gu, ''), 'hex');

const sources: readonly Source[] = [
  {
    name: 'veth',
    format: 'link',
    made: [
      'ip link add v0 mtu 1450 address 02:00:00:00:00:01 type veth peer name v1',
      'ip link set v0 alias weft group 7 up',
    ],
    protocol: 0,
    request: linkDump,
    holds: text('v0'),
  },
  {
    name: 'vxlan',
    format: 'link',
    made: [
      'ip link add x0 type vxlan id 77 dstport 6784 nolearning local 192.0.2.1 srcport 40000 50000 ttl 9 df set udp6zerocsumrx',
    ],
    protocol: 0,
    request: linkDump,
    holds: text('x0'),
  },
  {
    name: 'vxlan over IPv6',
    format: 'link',
    made: ['ip link add x6 type vxlan id 78 dstport 6785 nolearning local 2001:db8::1'],
    protocol: 0,
    request: linkDump,
    holds: text('x6'),
  },
  {
    name: 'bridge',
    format: 'link',
    made: ['ip link add b0 type bridge ageing_time 1234 mcast_snooping 0 nf_call_iptables 1'],
    protocol: 0,
    request: linkDump,
    holds: text('b0'),
  },
  {
    name: 'ifb, a kind without a table',
    format: 'link',
    made: ['ip link add i0 type ifb'],
    protocol: 0,
    request: linkDump,
    holds: text('i0'),
  },
  {
    name: 'IPv4 address',
    format: 'address',
    made: ['ip address add 10.32.0.1/12 dev v0 label v0:weft'],
    protocol: 0,
    request: addressDump,
    holds: hex('0a200001'),
  },
  {
    name: 'IPv6 address',
    format: 'address',
    made: ['ip address add fd00::1/64 dev v0 nodad'],
    protocol: 0,
    request: addressDump,
    holds: hex('fd000000000000000000000000000001'),
  },
  {
    name: 'IPv4 route with metrics',
    format: 'route',
    made: ['ip route add 10.64.0.0/16 dev v0 src 10.32.0.1 proto 121 metric 50 mtu lock 1400'],
    protocol: 0,
    request: routeDump,
    holds: hex('0a400000'),
  },
  {
    name: 'unreachable route in a table',
    format: 'route',
    made: ['ip route add unreachable 10.65.0.0/16 table 1000 proto 121'],
    protocol: 0,
    request: routeDump,
    holds: hex('0a410000'),
  },
  {
    name: 'IPv4 route via IPv6',
    format: 'route',
    made: ['ip route add 10.66.0.0/16 via inet6 fd00::2 dev v0'],
    protocol: 0,
    request: routeDump,
    holds: hex('0a420000'),
  },
  {
    name: 'IPv6 route',
    format: 'route',
    made: ['ip -6 route add fd01::/48 via fd00::2 dev v0 pref high proto 121'],
    protocol: 0,
    request: routeDump,
    holds: hex('fd010000000000000000000000000000'),
  },
  {
    name: 'nexthop',
    format: 'nexthop',
    made: ['ip nexthop add id 4711 via fd00::2 dev v0 protocol 121'],
    protocol: 0,
    request: nexthopDump,
    holds: hex('67120000'),
  },
  {
    name: 'route by nexthop object',
    format: 'route',
    made: ['ip route add 10.67.0.0/16 nhid 4711'],
    protocol: 0,
    request: routeDump,
    holds: hex('0a430000'),
  },
  {
    name: 'nexthop group',
    format: 'nexthop',
    made: ['ip nexthop add id 4712 via fd00::3 dev v0', 'ip nexthop add id 4713 group 4711,3/4712,5'],
    protocol: 0,
    request: nexthopDump,
    holds: hex('69120000'),
  },
  {
    name: 'blackhole nexthop',
    format: 'nexthop',
    made: ['ip nexthop add id 4714 blackhole'],
    protocol: 0,
    request: nexthopDump,
    holds: hex('6a120000'),
  },
  {
    name: 'neighbour',
    format: 'neighbour',
    made: ['ip neigh add fd00::2 lladdr 02:aa:00:00:00:02 dev v0 nud permanent protocol 121'],
    protocol: 0,
    request: neighbourDump,
    holds: hex('02aa00000002'),
  },
  {
    name: 'FDB entry of a vxlan device',
    format: 'neighbour',
    made: ['bridge fdb add 02:aa:00:00:00:03 dev x0 dst 192.0.2.7 self permanent port 7000'],
    protocol: 0,
    request: fdbDump,
    holds: hex('02aa00000003'),
  },
  {
    name: 'set with a concatenated key',
    format: 'elements',
    made: [
      'nft \'add table inet t; add set inet t s { type ifname . ipv4_addr; }; add element inet t s { "eth0" . 10.1.2.3 }\'',
    ],
    protocol: 12,
    request: elementDump('s'),
    holds: hex('0a010203'),
  },
  {
    name: 'concatenated ranges',
    format: 'elements',
    made: [
      "nft 'add set inet t r { type ipv4_addr . inet_service; flags interval; }; add element inet t r { 10.1.0.0/16 . 80-90 }'",
    ],
    protocol: 12,
    request: elementDump('r'),
    holds: hex('0a010000'),
  },
  {
    name: 'verdict map',
    format: 'elements',
    made: [
      "nft 'add chain inet t c; add map inet t m { type ipv6_addr : verdict; }; add element inet t m { fd00::9 : jump c }'",
    ],
    protocol: 12,
    request: elementDump('m'),
    holds: text('c'),
  },
];

function dump(path: string, source: Source): Buffer {
  const addon = nativeAddon();
  const fd = addon.netlinkOpen(source.protocol, path, 1 << 20);
  const message = Buffer.alloc(16 + source.request.payload.length);
  message.writeUInt32LE(message.length, 0);
  message.writeUInt16LE(source.request.type, 4);
  message.writeUInt16LE(0x305, 6);
  message.writeUInt32LE(1, 8);
  source.request.payload.copy(message, 16);
  const room = Buffer.alloc(256 << 10);
  const reply = addon.netlinkRequest(fd, message, message.length, 1, 0, 5000, room);
  addon.netlinkClose(fd);
  if (typeof reply !== 'number') return reply;
  if (reply < 0) throw new Error(`${source.name}: the dump is empty`);
  return room.subarray(0, reply);
}

function pick(reply: Buffer, source: Source): Buffer {
  for (let at = 0; at < reply.length;) {
    const length = reply.readUInt32LE(at);
    const payload = reply.subarray(at + 16, at + length);
    if (reply.readUInt16LE(at + 4) >= 16 && payload.includes(source.holds)) return payload;
    at += (length + 3) & ~3;
  }
  throw new Error(`${source.name}: not in the dump`);
}

await using ns = await TestNetns.create();
await ns.exec(['sysctl', '-qw', 'net.ipv6.conf.default.accept_dad=0']);
const fixtures: Fixture[] = [];
for (const source of sources) {
  for (const command of source.made) await ns.exec(['sh', '-c', command]);
  if (source.name === 'veth') await ns.exec(['ip', 'link', 'set', 'v1', 'up']);
  fixtures.push({
    name: source.name,
    made: source.made,
    format: source.format,
    hex: pick(dump(ns.path, source), source).toString('hex'),
  });
}
const document = { kernel: release(), fixtures };
writeFileSync(new URL('fixtures.json', import.meta.url), `${JSON.stringify(document, undefined, 1)}\n`);
console.log(`${fixtures.length} fixtures`);
