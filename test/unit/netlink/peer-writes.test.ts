// The writes of thousands say the same as the tables do: whatever the peer, both decode to one message.
import fc from 'fast-check';
import { it } from 'vitest';

import { neighbourFormat, newFdb, newNeighbour } from '#agent/netlink/neighbour.ts';
import { newNexthop, nexthopFormat } from '#agent/netlink/nexthop.ts';
import { addNexthop, addressElements, putFdb, putNeighbour, putPeerRoute } from '#agent/netlink/peer-writes.ts';
import { newRoute, routeFormat, routeTo } from '#agent/netlink/route.ts';
import { delSetElement, elementListFormat, newSetElement, setKey } from '#agent/netlink/set-element.ts';

import { check, ifindex, ip, ip4, ip6, mac, same, u32, u8 } from './writes.ts';

const block = fc.oneof(
  fc.tuple(ip4, fc.integer({ min: 1, max: 32 }), ip4).map(([address, length, from]) => [`${address}/${length}`, from]),
  fc.tuple(ip6, fc.integer({ min: 1, max: 128 }), ip6).map(([address, length, from]) => [`${address}/${length}`, from]),
) as fc.Arbitrary<[string, string]>;

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
