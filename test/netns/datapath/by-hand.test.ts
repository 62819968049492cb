// docs/by-hand.md: what its commands build and what Weft builds with `podLink` bridge and `overlayMode` direct is one topology.
// The commands of the page are run as they stand there.
import { readFile } from 'node:fs/promises';

import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { TestNetns } from '#test/support/netns.ts';

import { Lab, ping, until } from './lab.ts';

interface Node {
  readonly netns: TestNetns;
  readonly bridge: string;
  readonly pods: readonly TestNetns[];
}

interface Route {
  readonly dst: string;
  readonly gateway?: string;
  readonly dev: string;
  readonly prefsrc?: string;
}

/** The page's commands by the heading that they stand under; `POD` in them is a pod's namespace. */
async function commandsOf(heading: string): Promise<string> {
  const page = await readFile(new URL('../../../docs/by-hand.md', import.meta.url), 'utf8');
  const section = page.split('\n## ').find((text) => text.startsWith(heading)) ?? '';
  return [...section.matchAll(/```sh\n([^`]*)```/g)].map((match) => match[1] ?? '').join('');
}

const way = async (netns: TestNetns, to: string): Promise<unknown> => {
  const [route] = await netns.json<readonly Route[]>(['ip', '-j', 'route', 'get', to]);
  return { via: route?.gateway, dev: route?.dev, source: route?.prefsrc };
};

/** How many routers are between, by what is left of 64. */
const hops = async (from: TestNetns, to: string): Promise<number> =>
  64 - Number(/ttl=(\d+)/.exec(await ping(from, to))?.[1]);

/** What a person would draw: names of the bridge and of ports, protocols and metrics left out. */
async function topology(node: Node, remotePod: string, otherPod: string): Promise<unknown> {
  const { netns, bridge, pods } = node;
  const addresses = async (at: TestNetns, dev: string): Promise<readonly string[]> =>
    [...(await at.exec(['ip', '-4', 'address', 'show', 'dev', dev])).matchAll(/inet (\S+)/g)].map(
      (match) => match[1] ?? '',
    );
  const ports = await netns.json<readonly unknown[]>(['ip', '-j', 'link', 'show', 'master', bridge, 'type', 'veth']);
  const rename = (value: unknown): unknown => JSON.parse(JSON.stringify(value).replaceAll(bridge, 'BRIDGE'));
  return rename({
    bridge: (await addresses(netns, bridge)).map((cidr) => cidr.split('/')[0]),
    ports: ports.length,
    toOwnPods: await way(netns, otherPod),
    toOtherPods: await way(netns, remotePod),
    pods: await Promise.all(
      pods.map(async (pod) => ({
        addresses: await addresses(pod, 'eth0'),
        routes: (await pod.json<readonly Route[]>(['ip', '-j', 'route'])).map(({ dst, gateway, dev, prefsrc }) => {
          return { dst, gateway, dev, prefsrc };
        }),
        toSameNode: await way(pod, otherPod),
        hopsToSameNode: pod === pods[0] ? await hops(pod, otherPod) : 0,
        hopsToOtherNode: await hops(pod, remotePod),
        hopsToItsNode: await hops(pod, '192.0.2.1'),
      })),
    ),
  });
}

describe('the recipe by hand and Weft with bridge and direct', () => {
  let lab: Lab;
  const stack = new AsyncDisposableStack();

  beforeAll(async () => {
    lab = await Lab.create(2, { settings: { podLink: 'bridge', overlayMode: 'direct' } });
  });
  afterAll(async () => {
    await stack.disposeAsync();
    await lab[Symbol.asyncDispose]();
  });

  /** Two nodes and their wire, as the page has them before its first command; pods in the order of the page. */
  async function byHand(): Promise<readonly Node[]> {
    const wire = stack.use(await TestNetns.create('wire'));
    await wire.exec(['sh', '-ec', 'ip link add br0 type bridge; ip link set br0 up']);
    const nodes: Node[] = [];
    for (const [index, name] of ['a', 'b'].entries()) {
      const netns = stack.use(await TestNetns.create(`hand-${name}`));
      const pods = [stack.use(await TestNetns.create('handpod'))];
      if (name === 'a') pods.push(stack.use(await TestNetns.create('handpod')));
      await wire.exec([
        'ip',
        'link',
        'add',
        `port${name}`,
        'type',
        'veth',
        'peer',
        'name',
        'eth0',
        'netns',
        netns.path,
      ]);
      await wire.exec(['ip', 'link', 'set', `port${name}`, 'master', 'br0', 'up']);
      await netns.exec(['ip', 'address', 'add', `192.0.2.${index + 1}/24`, 'dev', 'eth0']);
      await netns.exec(['ip', 'link', 'set', 'eth0', 'up']);
      const script = (await commandsOf(`Node ${name}`)).replaceAll(/\bpod(\d)\b/g, (_match, number: string) => {
        return pods[Number(number) - 1]?.name ?? 'no-such-pod';
      });
      await netns.exec(['sh', '-ec', script]);
      nodes.push({ netns, bridge: 'br0', pods });
    }
    return nodes;
  }

  it('are one topology', async () => {
    const [here, there] = [lab.host(0), lab.host(1)];
    const [one, two, far] = [await here.addPod(), await here.addPod(), await there.addPod()];
    const [otherPod = '', remotePod = ''] = [two.lease.addresses[0], far.lease.addresses[0]];
    await until('the nodes know each other', async () =>
      ping(one.netns, remotePod).then(
        () => true,
        () => false,
      ),
    );
    const woven: Node = { netns: here.netns, bridge: 'weftbr0', pods: [one.netns, two.netns] };
    const [made] = await byHand();
    if (!made) throw new Error('the page makes no node');
    await until('the nodes by hand know each other', async () =>
      ping(made.pods[0] ?? made.netns, remotePod).then(
        () => true,
        () => false,
      ),
    );
    const drawn = await topology(made, remotePod, otherPod);
    expect(await topology(woven, remotePod, otherPod)).toEqual(drawn);
    expect(drawn).toMatchObject({
      bridge: ['10.32.0.1'],
      ports: 2,
      toOtherPods: { via: '192.0.2.2', dev: 'eth0', source: '10.32.0.1' },
      pods: [{ hopsToSameNode: 0, hopsToOtherNode: 2, hopsToItsNode: 0 }, {}],
    });
  });
});
