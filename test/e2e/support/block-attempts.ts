// What a stolen token of node a may try in order to get at others' space, with and without the labels by which the API server finds
// the records to compare with.
import type { KubeRequest } from '#agent/kubernetes/api.ts';
import { addressBits, type Family } from '#ipam-peer/address.ts';
import { formatCidr } from '#ipam-peer/cidr.ts';
import type { NodeAgent } from './node-agents.ts';
import type { PrivilegeWorld } from './privilege-world.ts';
import { blocks, refTo, stored, type Stored, withSpec } from './weft-objects.ts';

/** What is tried, whose refusal it must meet, and how. */
export type Attempt = readonly [what: string, by: string, request: () => Promise<KubeRequest>];

/** `a` owns 10.32.0.0/18; the others have what privilege-world.ts gives them. */
export function blockAttempts(world: () => PrivilegeWorld): readonly Attempt[] {
  const taking = async (...cidrs: readonly string[]): Promise<KubeRequest> =>
    await withSpec(world().a, { blocks: blocks('10.32.0.0/18', ...cidrs) });
  const relabelled = async (agent: NodeAgent, spec: object, ...marks: readonly string[]): Promise<KubeRequest> => {
    const request = await withSpec(agent, spec);
    const body = request.body as Stored;
    const labels = Object.fromEntries(marks.map((mark) => [`weft.network/${mark}`, '']));
    return { ...request, body: { ...body, metadata: { ...body.metadata, labels } } };
  };
  // Neither has a wide block: only the label leads from this one to its owner.
  const stolen = { blocks: blocks('10.32.0.0/18', '10.34.0.128/25') };
  return [
    ['to take a block of another', 'weft-blocks', async () => taking('10.33.0.0/24')],
    [
      'to take a range that holds another’s block',
      'weft-blocks',
      async () => withSpec(world().a, { blocks: blocks('10.32.0.0/15') }),
    ],
    ['to take a part of a small block of another', 'weft-blocks', async () => taking('10.36.4.128/25')],
    ['to take a part of a small IPv6 block of another', 'weft-blocks', async () => taking('fd00:32:0:1234:8000::/65')],
    ['to take what was granted to another', 'weft-blocks', async () => taking('10.33.128.0/17')],
    ['to take the space of a gone node without being its heir', 'weft-blocks', async () => taking('10.34.0.0/18')],
    [
      'to take a block without the label by which its owner is found',
      'weft-peers',
      async () => relabelled(world().a, stolen, 'space-0'),
    ],
    [
      'to take a block under a label of another part',
      'weft-peers',
      async () => relabelled(world().a, stolen, 'space-0', 'space-5'),
    ],
    [
      'to become the heir of a living node without the label by which that is seen',
      'weft-peers',
      async () => {
        const { a, b } = world();
        const marks = Object.keys((await stored(b)).metadata['labels'] as object);
        return relabelled(b, { heir: refTo(await stored(a)) }, ...marks.map((mark) => mark.split('/')[1] ?? ''));
      },
    ],
    [
      'to replace an heir that lives without the label by which that is seen',
      'weft-peers',
      async () => {
        const { a, inherited } = world();
        const request = await withSpec(inherited, { heir: refTo(await stored(a)) });
        const { 'weft.network/heirs': _dropped, ...labels } = (request.body as Stored).metadata['labels'] as {
          readonly [label: string]: string;
        };
        const body = request.body as Stored;
        return { ...request, body: { ...body, metadata: { ...body.metadata, labels } } };
      },
    ],
    ['to hide its own blocks', 'weft-peers', async () => relabelled(world().a, {})],
  ];
}

/** A block of each prefix length, spread over a part of the address space that nobody else in the test uses. */
export function blocksOfEverySize(family: Family): readonly string[] {
  const [start, within, from, to] =
    family === 4 ? [0x4000_0000n, 0x4000_0000n, 9, 32] : [0xfd01n << 112n, 1n << 112n, 33, 120];
  return Array.from({ length: to - from + 1 }, (_, index) => {
    const size = 1n << BigInt(addressBits(family) - from - index);
    const base = start + ((BigInt(index) * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835n) % within);
    return formatCidr({ family, base: (base / size) * size, prefix: from + index });
  });
}
