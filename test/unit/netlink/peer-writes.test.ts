// The writes of thousands say the same as the tables do: whatever the peer, both decode to one message.
import fc from 'fast-check';
import { expect, it } from 'vitest';

import { readIp, readLladdr } from '#agent/netlink/ip-text.ts';
import { writeMessage, type NetlinkRequest } from '#agent/netlink/message.ts';
import { neighbourFormat, newFdb, newNeighbour } from '#agent/netlink/neighbour.ts';
import { newNexthop, nexthopFormat } from '#agent/netlink/nexthop.ts';
import { addNexthop, addressElements, putFdb, putNeighbour, putPeerRoute } from '#agent/netlink/peer-writes.ts';
import { newRoute, routeFormat, routeTo } from '#agent/netlink/route.ts';
import { delSetElement, elementListFormat, newSetElement, setKey } from '#agent/netlink/set-element.ts';
import { Writer } from '#agent/netlink/wire.ts';

import { seed } from './seed.ts';

const u8 = fc.integer({ min: 1, max: 0xff });
const u32 = fc.integer({ min: 1, max: 0xffff_ffff });
const ifindex = fc.integer({ min: 1, max: 2 ** 31 - 1 });
const bytes = (length: number): fc.Arbitrary<Uint8Array> => fc.uint8Array({ minLength: length, maxLength: length });
const ip4 = bytes(4).map((raw) => readIp(raw, 0, 4) ?? '');
const ip6 = bytes(16).map((raw) => readIp(raw, 0, 16) ?? '');
const ip = fc.oneof(ip4, ip6);
const mac = bytes(6).map((raw) => readLladdr(raw, 0, 6));
const block = fc.oneof(
  fc.tuple(ip4, fc.integer({ min: 1, max: 32 }), ip4).map(([address, length, from]) => [`${address}/${length}`, from]),
  fc.tuple(ip6, fc.integer({ min: 1, max: 128 }), ip6).map(([address, length, from]) => [`${address}/${length}`, from]),
) as fc.Arbitrary<[string, string]>;

interface Reader {
  read(bytes: Buffer, start: number, end: number): object;
}

/** As decoded by the family's table; the buffer holds rubbish before, as a writer that is used again does. */
function read(format: Reader, request: NetlinkRequest<unknown>): object {
  const writer = new Writer(8);
  writer.raw(new Uint8Array(500).fill(0xee));
  writer.length = 0;
  writeMessage(writer, request, request.flags, 7);
  expect(writer.length % 4).toBe(0);
  return {
    name: request.name,
    type: request.type,
    flags: request.flags,
    ...format.read(writer.bytes, 16, writer.length),
  };
}

function same(format: Reader, one: NetlinkRequest<unknown>, other: NetlinkRequest<unknown>): void {
  expect(read(format, one)).toEqual(read(format, other));
}

const check = <Values extends [unknown, ...unknown[]]>(
  arbitraries: { [Key in keyof Values]: fc.Arbitrary<Values[Key]> },
  predicate: (...values: Values) => void,
): void => fc.assert(fc.property(...arbitraries, predicate), { seed, numRuns: 300 });

it('FDB entries and neighbours', () => {
  check([ifindex, mac, ip], (ndmIfindex, lladdr, dst) => {
    same(neighbourFormat, putFdb(ndmIfindex, lladdr, dst), newFdb({ ndmIfindex, lladdr, dst }));
    same(neighbourFormat, putNeighbour(ndmIfindex, dst, lladdr), newNeighbour({ ndmIfindex, dst, lladdr }));
  });
});

it('nexthops', () => {
  check([u32, ifindex, ip, u8, fc.constantFrom(0, 4)], (id, oif, gateway, protocol, flags) => {
    const wanted = newNexthop({ id, oif, gateway, nhProtocol: protocol, nhFlags: flags });
    same(nexthopFormat, addNexthop({ id, oif, gateway, protocol, flags }), wanted);
  });
});

it('routes', () => {
  check(
    [block, u32, fc.oneof(fc.constant(0), u32), u8, fc.boolean()],
    ([dst, prefsrc], nhId, priority, protocol, replace) => {
      const metric = priority > 0 ? { priority } : {};
      const wanted = newRoute({ ...routeTo(dst), rtmProtocol: protocol, ...metric, nhId, prefsrc }, { replace });
      same(routeFormat, putPeerRoute({ dst, nhId, prefsrc, priority, protocol }, replace), wanted);
    },
  );
});

it('elements of sets of addresses', () => {
  const where = { family: 1, table: 'weft', set: 'peers4' };
  check([fc.array(ip, { maxLength: 20 })], (addresses) => {
    const specs = addresses.map((address) => ({ key: setKey({ ip: address }) }));
    same(elementListFormat, addressElements('add', where, addresses), newSetElement(where, specs));
    same(elementListFormat, addressElements('del', where, addresses), delSetElement(where, specs));
  });
});
