// The writes that every start of a pod waits for say the same as the tables do: whatever the pod, both decode to one message.
import fc from 'fast-check';
import { expect, it } from 'vitest';

import { addressFlag, addressFormat, newAddress } from '#agent/netlink/addr.ts';
import { addrGenMode } from '#agent/netlink/link-af-spec.ts';
import { getLink, linkFlag, linkFormat, newLink, setLink } from '#agent/netlink/link.ts';
import { neighbourFormat, neighbourState, newNeighbour } from '#agent/netlink/neighbour.ts';
import { putNeighbour } from '#agent/netlink/peer-writes.ts';
import {
  addAddress,
  addLinkRoute,
  addVeth,
  delLinkRoute,
  dumpDefaultRoutes,
  getOperstate,
  setAlias,
  setUp,
} from '#agent/netlink/pod-writes.ts';
import { dumpRoutes, newRoute, routeFormat, routeMessage, routeTo, routeType } from '#agent/netlink/route.ts';
import { elementListFormat, newSetElement, setKey, verdictCode } from '#agent/netlink/set-element.ts';
import { writeMessage } from '#agent/netlink/message.ts';
import { Writer } from '#agent/netlink/wire.ts';

import { check, ifindex, ip, ip4, mac, read, same, u32, u8 } from './writes.ts';

const ifname = fc.stringMatching(/^[a-z0-9é.-]{1,12}$/).filter((text) => Buffer.byteLength(text) <= 15);
const maybe = <Value>(one: fc.Arbitrary<Value>): fc.Arbitrary<Value | undefined> => fc.option(one, { nil: undefined });
const queues = { numTxQueues: 1, numRxQueues: 1 };

it('a veth pair', () => {
  check(
    [fc.tuple(ifname, ifname), fc.tuple(mac, mac), u32, ifindex, maybe(ifindex)],
    ([name, peerIfname], [own, peerMac], mtuBytes, netNsFd, master) => {
      const peer = { ifname: peerIfname, address: peerMac, mtu: mtuBytes, netNsFd, ...queues };
      const port = master === undefined ? {} : { master };
      const link = { ifname: name, address: own, mtu: mtuBytes, ...queues, ...port };
      const wanted = newLink({ ...link, linkinfo: { kind: 'veth', data: { peer } } }, { echo: true });
      same(linkFormat, addVeth({ ifname: name, mac: own, mtuBytes, peerIfname, peerMac, netNsFd, ...port }), wanted);
    },
  );
});

it('reads both ends of the pair that the kernel tells of, and no more', () => {
  const writer = new Writer();
  const told = { ifiIndex: 7, ifname: 'weftp0', mtu: 1450, link: 2, linkNetnsid: 3, group: 9 };
  writeMessage(writer, setLink(told), 0, 1);
  const ends = addVeth({ ifname: '', mac: '', mtuBytes: 0, peerIfname: '', peerMac: '', netNsFd: 0 }).format;
  const header = { ifiFamily: 0, ifiType: 0, ifiFlags: 0, ifiChange: 0 };
  expect(ends.read(writer.bytes, 16, writer.length)).toEqual({ ...header, ifiIndex: 7, link: 2, linkNetnsid: 3 });
});

it('a link brought up', () => {
  check([ifindex], (ifiIndex) => {
    same(linkFormat, setUp(ifiIndex), setLink({ ifiIndex, ifiFlags: linkFlag.up, ifiChange: linkFlag.up }));
  });
});

it('a look at whether a link, here or in another namespace, is up', () => {
  check([ifindex, maybe(ifindex)], (ifiIndex, targetNetnsid) => {
    const place = targetNetnsid === undefined ? { ifiIndex } : { ifiIndex, targetNetnsid };
    same(linkFormat, getOperstate(place), getLink(place));
  });
  const writer = new Writer();
  writeMessage(writer, setLink({ ifiIndex: 7, ifname: 'eth0', operstate: 6, linkmode: 1 }), 0, 1);
  expect(getOperstate({ ifiIndex: 7 }).format.read(writer.bytes, 16, writer.length)).toBe(6);
});

it('a link’s alias', () => {
  check([ifindex, ifname, fc.boolean()], (ifiIndex, ifalias, quietIpv6) => {
    const quiet = quietIpv6 ? { afSpec: { inet6: { addrGenMode: addrGenMode.none } } } : {};
    same(linkFormat, setAlias({ ifiIndex, ifalias, quietIpv6 }), setLink({ ifiIndex, ifalias, ...quiet }));
  });
});

it('addresses', () => {
  check([ifindex, ip, u8, u8], (ifaIndex, address, ifaPrefixlen, ifaScope) => {
    const nodad = address.includes(':') ? { ifaFlags: addressFlag.nodad } : {};
    const wanted = newAddress({ ifaIndex, local: address, ifaPrefixlen, ifaScope, ...nodad });
    const pod = { ifindex: ifaIndex, address, prefixLength: ifaPrefixlen, scope: ifaScope };
    same(addressFormat, addAddress(pod), wanted);
  });
});

it('neighbours that may change', () => {
  check([ifindex, ip, mac], (ndmIfindex, dst, lladdr) => {
    const wanted = newNeighbour({ ndmIfindex, dst, lladdr, ndmState: neighbourState.stale });
    same(neighbourFormat, putNeighbour(ndmIfindex, dst, lladdr, neighbourState.stale), wanted);
  });
});

it('routes by a link', () => {
  check([ifindex, ip, maybe(ip4), maybe(u8)], (oif, dst, prefsrc, protocol) => {
    const source = prefsrc === undefined || dst.includes(':') ? {} : { prefsrc };
    const by = protocol === undefined ? [{}, {}] : [{ protocol }, { rtmProtocol: protocol }];
    same(
      routeFormat,
      addLinkRoute({ oif, dst, ...source, ...by[0] }),
      newRoute({ ...routeTo(dst), oif, ...source, ...by[1] }),
    );
    const everywhere = routeTo(dst.includes(':') ? '::/0' : '0.0.0.0/0');
    same(routeFormat, addLinkRoute({ oif, gateway: dst }), newRoute({ ...everywhere, oif, gateway: dst }));
    const back = { name: 'delRoute', type: routeMessage.delete, flags: 0 };
    const route = { oif, dst, ...source, ...by[0] };
    expect(read(routeFormat, delLinkRoute(route))).toEqual({ ...read(routeFormat, addLinkRoute(route)), ...back });
  });
});

it('default routes, of all that the kernel lists', () => {
  same(routeFormat, dumpDefaultRoutes(), dumpRoutes({ rtmType: routeType.unicast }));
  const { format } = dumpDefaultRoutes();
  const told = (route: Parameters<typeof newRoute>[0]): unknown => {
    const writer = new Writer();
    writeMessage(writer, newRoute(route), 0, 1);
    return format.read(writer.bytes, 16, writer.length);
  };
  expect(told({ ...routeTo('0.0.0.0/0'), oif: 3, gateway: '10.0.0.1' })).toEqual({ table: 254, oif: 3 });
  expect(told({ ...routeTo('::/0'), oif: 3, table: 87_003 })).toEqual({ table: 87_003, oif: 3 });
  expect(told({ ...routeTo('0.0.0.0/0'), nhId: 9 })).toEqual({ table: 254 });
  expect(told({ ...routeTo('10.0.0.0/8'), oif: 3 })).toBeUndefined();
  expect(told({ ...routeTo('0.0.0.0/0'), rtmType: routeType.unreachable })).toBeUndefined();
});

it('elements of any set', () => {
  const where = { family: 7, table: 'weft', set: 'sources4' };
  const key = fc.uint8Array({ minLength: 1, maxLength: 40 });
  const element = fc.record({
    key,
    keyEnd: maybe(key),
    data: fc.oneof(
      fc.constant({}),
      fc.record({ value: key }),
      fc.record({ verdict: fc.constantFrom('accept', 'drop', 'return') }),
      fc.record({ verdict: fc.constant('jump'), chain: ifname }),
    ) as fc.Arbitrary<{ value?: Uint8Array; verdict?: 'accept' | 'jump'; chain?: string }>,
    flags: maybe(u8),
    timeoutMs: maybe(u32),
  });
  check([fc.array(element, { minLength: 1, maxLength: 8 })], (elements) => {
    const specs = elements.map(({ data, keyEnd, flags, timeoutMs, ...rest }) => ({
      ...rest,
      ...data,
      ...(keyEnd && { keyEnd }),
      ...(flags === undefined ? {} : { flags }),
      ...(timeoutMs === undefined ? {} : { timeoutMs }),
    }));
    const wanted = elements.map(({ key: own, keyEnd, data, flags, timeoutMs }) => ({
      key: { value: own },
      ...(keyEnd && { keyEnd: { value: keyEnd } }),
      ...(data.value && { data: { value: data.value } }),
      ...(data.verdict && {
        data: {
          verdict: { code: verdictCode[data.verdict], ...(data.chain === undefined ? {} : { chain: data.chain }) },
        },
      }),
      ...(flags === undefined ? {} : { flags }),
      ...(timeoutMs === undefined ? {} : { timeout: BigInt(timeoutMs) }),
    }));
    const request = newSetElement(where, specs);
    const message = { nfgenFamily: 7, table: 'weft', set: 'sources4', elements: wanted };
    expect(read(elementListFormat, request)).toEqual(
      read(elementListFormat, { ...request, format: elementListFormat, message }),
    );
  });
});

it('keys of a concatenation are padded, and names beyond the kernel’s limit refused', () => {
  expect(setKey({ ifname: 'weftp0123456789' }, { ip: '10.0.0.1' })).toHaveLength(20);
  expect(setKey({ ifname: 'é' }, { port: 80 })).toHaveLength(20);
  expect(() => setKey({ ifname: 'weftp01234567890' })).toThrow('longer than 15 bytes');
});
