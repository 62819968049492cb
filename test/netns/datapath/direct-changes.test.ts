// Overlay modes with direct routes follow peers and link addresses one by one: no change asks for a reading of everything.
import { afterEach, describe, expect, it } from 'vitest';

import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';

import { Lab, outsideAddress, ping, until } from './lab.ts';
import type { HostOptions, LabHost } from './lab.ts';
import { udpStream } from './stream.ts';

const never = 3_600_000;

describe('a change of peers', () => {
  let lab: Lab | undefined;
  let comparisons: string[] = [];
  afterEach(async () => {
    await lab?.[Symbol.asyncDispose]();
    lab = undefined;
  });

  async function twoHosts(overlayMode: 'vxlan' | 'direct' | 'auto'): Promise<readonly [LabHost, LabHost]> {
    comparisons = [];
    const log: HostOptions['log'] = (fields, message) => {
      if (message === 'kernel changed, comparing') comparisons.push(JSON.stringify(fields));
    };
    lab = await Lab.create(2, { settings: { overlayMode, comparePeriodMs: never }, log });
    return [lab.host(0), lab.host(1)];
  }

  /** Until nothing of the start is left to be compared. */
  async function settled(host: LabHost): Promise<void> {
    await until('the start is over', async () => {
      const before = host.datapath.status().reconciles + comparisons.length;
      await new Promise((resolve) => setTimeout(resolve, 1500));
      return host.datapath.status().reconciles + comparisons.length === before;
    });
    comparisons = [];
  }

  const admitted = async ({ netns }: LabHost): Promise<string> =>
    netns.exec(['nft', 'list', 'set', 'inet', 'weft', 'direct4']);

  const routes = async ({ netns }: LabHost): Promise<string> => netns.exec(['ip', 'route', 'show', 'proto', '87']);

  const neighbour = async ({ netns }: LabHost, lladdr: string, state: string): Promise<string> =>
    netns.exec(['ip', 'neigh', 'replace', '192.0.2.2', 'lladdr', lladdr, 'dev', 'eth0', 'nud', state]);

  const third: PeerView = {
    name: 'd.0123abcd',
    nodeName: 'd',
    self: false,
    underlayAddress: '192.0.2.77',
    overlayAddresses: ['10.46.0.1'],
    blocks: ['10.46.0.0/17'],
  };

  function withPeers(...peers: readonly PeerView[]): (view: IpamView) => IpamView {
    return (view) => ({ ...view, peers: [...view.peers, ...peers] });
  }

  it.each(['direct', 'auto'] as const)(
    'mode %s: a peer that comes is admitted once its link address is told, follows it, and goes',
    async (mode) => {
      const [a] = await twoHosts(mode);
      await settled(a);
      const made = lab as Lab;
      made.viewPatch = withPeers(third);
      await a.reconcile();
      expect(await routes(a)).toContain('10.46.0.0/17');
      expect(await admitted(a)).not.toContain('10.46.0.0/17');
      await made.outside.exec(['ip', 'address', 'add', '192.0.2.77/24', 'dev', 'eth0']);
      await made.outside.exec(['ping', '-c', '1', '-I', '192.0.2.77', a.underlay]);
      const link = JSON.parse(await made.outside.exec(['ip', '-j', 'link', 'show', 'eth0'])) as { address: string }[];
      await until('it is admitted', async () => (await admitted(a)).includes(`${link[0]?.address} . 10.46.0.0/17`));
      await made.outside.exec(['ip', 'link', 'set', 'eth0', 'address', '02:00:00:00:00:77']);
      await a.netns.exec(['ip', 'neigh', 'replace', '192.0.2.77', 'lladdr', '02:00:00:00:00:77', 'dev', 'eth0']);
      await until('it is admitted anew', async () => (await admitted(a)).includes('02:00:00:00:00:77 . 10.46.0.0/17'));
      expect(await admitted(a)).not.toContain(`${link[0]?.address} . `);
      made.viewPatch = (view) => view;
      await a.reconcile();
      expect(await routes(a)).not.toContain('10.46.0.0/17');
      expect(await admitted(a)).not.toContain('10.46.0.0/17');
      expect(a.datapath.status()).toMatchObject({ ready: true, findings: [], repairs: 0 });
      expect(comparisons).toEqual([]);
    },
  );

  it('mode direct: the link address of a peer that the kernel knows already is found at once', async () => {
    const [a] = await twoHosts('direct');
    await settled(a);
    const made = lab as Lab;
    await a.netns.exec(['ping', '-c', '1', outsideAddress]);
    made.viewPatch = withPeers({ ...third, underlayAddress: outsideAddress });
    await a.reconcile();
    expect(await admitted(a)).toContain('10.46.0.0/17');
    expect(comparisons).toEqual([]);
  });

  it('mode direct: a block that is split or joined is admitted all the time', { timeout: 60_000 }, async () => {
    const [a, b] = await twoHosts('direct');
    const made = lab as Lab;
    const [near, far] = [await a.addPod(), await b.addPod()];
    await until('they reach each other', async () =>
      ping(near.netns, far.lease.addresses[0] ?? '').then(
        () => true,
        () => false,
      ),
    );
    await settled(a);
    const streams = [await udpStream(near, far), await udpStream(far, near)];
    for (const blocks of [['10.40.0.0/15'], ['10.40.0.0/16', '10.41.0.0/16'], ['10.40.0.0/14']]) {
      made.viewPatch = (view) => ({
        ...view,
        peers: view.peers.map((peer) => (peer.nodeName === 'b' ? { ...peer, blocks } : peer)),
      });
      await a.reconcile();
      for (const block of blocks) expect(await admitted(a)).toContain(block);
      expect(a.datapath.status()).toMatchObject({ ready: true, findings: [] });
    }
    for (const stream of streams) expect(await stream.stop()).toMatchObject({ lost: 0 });
    expect(comparisons).toEqual([]);
  });

  it('mode auto: proven peers go directly and back, and the probes are told, without a comparison', async () => {
    const [a, b] = await twoHosts('auto');
    const pods = [await a.addPod(), await b.addPod()];
    await until('admitted', async () => (await admitted(a)).includes('10.40.0.0/14'));
    await settled(a);
    const name = (lab as Lab).viewOf(1).peers.find(({ self }) => self)?.name ?? '';
    const isDirect = (): boolean | undefined => a.datapath.scene()?.peers.find((peer) => peer.name === name)?.direct;
    const via = async (): Promise<string> => a.netns.exec(['ip', 'route', 'get', pods[1]?.lease.addresses[0] ?? '']);
    for (const direct of [true, false, true]) {
      expect(isDirect()).toBe(!direct);
      await a.datapath.setDirect(new Set(direct ? [name] : []));
      expect(await via()).toContain(direct ? 'dev eth0' : 'dev weft0');
      expect(isDirect()).toBe(direct);
    }
    expect(comparisons).toEqual([]);
  });

  it('mode vxlan: what the underlay link says of a peer there is nothing to compare', async () => {
    const [a] = await twoHosts('vxlan');
    await settled(a);
    for (const state of ['reachable', 'stale', 'reachable']) await neighbour(a, '02:00:00:00:00:02', state);
    await new Promise((resolve) => setTimeout(resolve, 500));
    expect(comparisons).toEqual([]);
  });
});
