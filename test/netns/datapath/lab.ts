// A lab for the datapath: hosts as network namespaces on one switch, each with a datapath of its own in this process (its
// sockets live in the host's namespace), pods as further namespaces, and one machine outside the overlay.
import { createDatapath } from '#agent/datapath/kernel-datapath.ts';
import type { DatapathLog, KernelDatapath, PodLink, PodLinkRequest } from '#agent/datapath/datapath.ts';
import { hostIfnameOf } from '#test/support/pod-names.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import { netnsInfo } from '#agent/netlink/netns.ts';
import type { Family } from '#agent/datapath/cidr.ts';
import type { IpamView, Lease, LinkOptions, PeerView } from '#agent/runtime/ipam.ts';
import { run, TestNetns } from '#test/support/netns.ts';

interface Share {
  readonly name: string;
  readonly blocks: readonly string[];
  /** The host's overlay address, and what its pods' addresses begin with. */
  readonly overlay: string;
  readonly pods: string;
}

/** What the three hosts own of each family's pool. */
const shares: Readonly<Record<Family, readonly Share[]>> = {
  4: [
    { name: 'a', blocks: ['10.32.0.0/13'], overlay: '10.32.0.1', pods: '10.32.0.' },
    { name: 'b', blocks: ['10.40.0.0/14'], overlay: '10.40.0.1', pods: '10.40.0.' },
    { name: 'c', blocks: ['10.44.0.0/15', '10.46.0.0/16'], overlay: '10.44.0.1', pods: '10.44.0.' },
  ],
  6: [
    { name: 'a', blocks: ['fd42::/50'], overlay: 'fd42::1', pods: 'fd42::' },
    { name: 'b', blocks: ['fd42:0:0:4000::/50'], overlay: 'fd42:0:0:4000::1', pods: 'fd42:0:0:4000::' },
    {
      name: 'c',
      blocks: ['fd42:0:0:8000::/51', 'fd42:0:0:a000::/51'],
      overlay: 'fd42:0:0:8000::1',
      pods: 'fd42:0:0:8000::',
    },
  ],
};

/** Ranges of each family's pool, and what is never given out of them. */
const pools = {
  4: { range: '10.32.0.0/12', reserved: '10.47.0.0/16' },
  6: { range: 'fd42::/48', reserved: 'fd42:0:0:f000::/52' },
} as const;

export const outsideAddress = '192.0.2.200';
export const outsideAddress6 = '2001:db8:2::c8';
const silent: DatapathLog = { debug: () => {}, info: () => {}, warn: () => {}, error: () => {} };

export interface HostOptions {
  /** Families of the pool; IPv4 unless told otherwise. */
  readonly families?: readonly Family[];
  /** Family of the addresses that VXLAN packets travel between; IPv4 unless told otherwise. */
  readonly underlay?: Family;
  readonly settings?: Partial<DatapathSettings>;
  /** `name=value`, written into each host before its datapath starts. */
  readonly sysctls?: readonly string[];
  readonly beforeAttachStep?: (step: string, lease: Lease) => void;
  readonly notificationBufferBytes?: number;
  /** Hears what the datapaths log, whatever the level. */
  readonly log?: (fields: object, message: string) => void;
}

export interface Pod {
  readonly netns: TestNetns;
  readonly lease: Lease;
  readonly request: PodLinkRequest;
  readonly link: PodLink;
}

export class LabHost {
  readonly index: number;
  readonly netns: TestNetns;
  readonly underlay: string;
  readonly overlay: string;
  readonly leases: Lease[] = [];
  readonly #lab: Lab;
  #options: HostOptions;
  #podCount = 0;
  #made: KernelDatapath | undefined;

  constructor(lab: Lab, index: number, netns: TestNetns, options: HostOptions) {
    this.#lab = lab;
    this.index = index;
    this.netns = netns;
    this.underlay = underlayOf(index, lab.underlay);
    this.overlay = shares[lab.families[0] ?? 4][index]?.overlay ?? '';
    this.#options = options;
  }

  get datapath(): KernelDatapath {
    if (!this.#made) throw new Error('the host has no datapath now');
    return this.#made;
  }

  /** How many peers the kernel leads packets to. */
  peersProgrammed(): number {
    return this.view().peers.filter((peer) => !peer.self && this.datapath.isProgrammed(peer)).length;
  }

  view(): IpamView {
    return this.#lab.viewOf(this.index);
  }

  /** Starts a datapath on whatever the namespace holds. */
  async start(): Promise<void> {
    const { beforeAttachStep, notificationBufferBytes, log } = this.#options;
    this.#made = createDatapath({
      settings: { ...defaultDatapathSettings, netnsPath: this.netns.path, ...this.#options.settings },
      log: log ? { debug: log, info: log, warn: log, error: log } : silent,
      ...(beforeAttachStep ? { beforeAttachStep } : {}),
      ...(notificationBufferBytes === undefined ? {} : { notificationBufferBytes }),
    });
    await this.#made.start(this.view(), this.leases);
  }

  async stop(): Promise<void> {
    await this.#made?.stop();
    this.#made = undefined;
  }

  /** Another agent, with other settings, on what the one before left. */
  async restart(settings: Partial<DatapathSettings>): Promise<void> {
    await this.stop();
    this.#options = { ...this.#options, settings: { ...this.#options.settings, ...settings } };
    await this.start();
  }

  async reconcile(): Promise<void> {
    await this.datapath.reconcile(this.view(), this.leases);
  }

  /** A lease of the next address of this host. */
  lease(containerId: string, netns: TestNetns, ifname = 'eth0'): Lease {
    this.#podCount++;
    const key = { containerId, ifname };
    return {
      ...key,
      generation: (BigInt(this.index + 1) * 0x1000n + BigInt(this.#podCount)).toString(16).padStart(16, '0'),
      addresses: this.#lab.families.map((family) => this.#address(family)),
      owner: { network: 'weft', netnsPath: netns.path, netnsInode: BigInt(netnsInfo(netns.path).ino) },
      state: 'pending',
      sinceMs: 0,
      hostIfname: hostIfnameOf(defaultDatapathSettings.podLinkPrefix, key),
    };
  }

  #address(family: Family): string {
    const number = this.#podCount + 9;
    return `${shares[family][this.index]?.pods}${family === 4 ? number : number.toString(16)}`;
  }

  /** The host's own address of a family on the wire between the hosts. */
  wireAddress(family: Family): string {
    return underlayOf(this.index, family);
  }

  overlayOf(family: Family): string {
    return shares[family][this.index]?.overlay ?? '';
  }

  /** A pod with its link, as ADD makes it. */
  async addPod(containerId = `pod-${this.index}-${this.#podCount}`, more?: LinkOptions): Promise<Pod> {
    const netns = await this.#lab.own(await TestNetns.create('pod'));
    const lease = { ...this.lease(containerId, netns), ...(more && { link: more }) };
    const request = { lease, netnsPath: netns.path };
    const link = await this.datapath.attach(request, AbortSignal.timeout(10_000));
    this.leases.push({ ...lease, state: 'active' });
    return { netns, lease, request, link };
  }

  async removePod(pod: Pod): Promise<void> {
    await this.datapath.detach(pod.lease);
    this.forget(pod.lease);
  }

  forget(lease: Lease): void {
    const at = this.leases.findIndex(({ generation }) => generation === lease.generation);
    if (at >= 0) this.leases.splice(at, 1);
  }
}

export class Lab implements AsyncDisposable {
  readonly hosts: LabHost[] = [];
  readonly #stack: AsyncDisposableStack;
  /** On the hosts' switch, outside the overlay, with no route to it. */
  readonly outside: TestNetns;
  /** The switch: bridge `br0` with ports `port0`, `port1`, … */
  readonly wire: TestNetns;
  readonly families: readonly Family[];
  readonly underlay: Family;
  viewPatch: (view: IpamView) => IpamView = (view) => view;

  private constructor(stack: AsyncDisposableStack, outside: TestNetns, wire: TestNetns, options: HostOptions) {
    this.#stack = stack;
    this.wire = wire;
    this.families = options.families ?? [4];
    this.underlay = options.underlay ?? 4;
    this.outside = outside;
  }

  /** `count` hosts, at most three, with running datapaths. */
  static async create(count: number, options: HostOptions = {}): Promise<Lab> {
    await using stack = new AsyncDisposableStack();
    const wire = stack.use(await TestNetns.create('switch'));
    await wire.exec(['ip', 'link', 'add', 'br0', 'type', 'bridge']);
    await wire.exec(['ip', 'link', 'set', 'br0', 'up']);
    const outside = stack.use(await TestNetns.create('outside'));
    await plug(wire, outside, 'out', [outsideAddress, outsideAddress6, 'fe80::c8']);
    const lab = new Lab(stack.move(), outside, wire, options);
    const onIpv6 = lab.underlay === 6 || lab.families.includes(6);
    try {
      for (let index = 0; index < count; index++) {
        const netns = await lab.own(await TestNetns.create('host'));
        const addresses = [underlayOf(index, 4), ...(onIpv6 ? [underlayOf(index, 6), `fe80::${index + 1}`] : [])];
        await plug(wire, netns, `port${index}`, addresses);
        for (const sysctl of options.sysctls ?? []) await netns.exec(['sysctl', '-qw', sysctl]);
        await netns.exec(['ip', 'route', 'add', 'default', 'via', outsideAddress]);
        if (onIpv6) await netns.exec(['ip', 'route', 'add', 'default', 'via', outsideAddress6]);
        lab.hosts.push(new LabHost(lab, index, netns, options));
      }
      for (const host of lab.hosts) await host.start();
    } catch (error) {
      await lab[Symbol.asyncDispose]();
      throw error;
    }
    return lab;
  }

  async own(netns: TestNetns): Promise<TestNetns> {
    return this.#stack.use(netns);
  }

  host(index: number): LabHost {
    const host = this.hosts[index];
    if (!host) throw new Error(`the lab has no host ${index}`);
    return host;
  }

  viewOf(self: number): IpamView {
    const owned = (index: number): readonly Share[] => this.families.flatMap((family) => shares[family][index] ?? []);
    const peers = this.hosts.map((host, index): PeerView => ({
      name: `${shares[4][index]?.name}.0123abcd`,
      nodeName: shares[4][index]?.name ?? '',
      self: index === self,
      underlayAddress: host.underlay,
      overlayAddresses: owned(index).map(({ overlay }) => overlay),
      blocks: owned(index).flatMap(({ blocks }) => blocks),
    }));
    return this.viewPatch({
      ranges: this.families.map((family) => pools[family].range),
      reserved: this.families.map((family) => pools[family].reserved),
      peers,
      overlayAddresses: owned(self).map(({ overlay }) => overlay),
      freeAddresses: 1000,
      leasedAddresses: 0,
      restingAddresses: 0,
      ready: true,
      waitingFor: '',
      registryAnsweredAtMs: 0,
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const host of this.hosts) await host.stop();
    await this.#stack.disposeAsync();
  }
}

function underlayOf(index: number, family: Family): string {
  return family === 4 ? `192.0.2.${index + 1}` : `2001:db8:2::${index + 1}`;
}

async function plug(wire: TestNetns, netns: TestNetns, port: string, addresses: readonly string[]): Promise<void> {
  await wire.exec(['ip', 'link', 'add', port, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns.path]);
  await wire.exec(['ip', 'link', 'set', port, 'master', 'br0', 'up']);
  for (const address of addresses) {
    const [length, nodad] = address.includes(':') ? ['64', ['nodad']] : ['24', []];
    await netns.exec(['ip', 'address', 'add', `${address}/${length}`, 'dev', 'eth0', ...nodad]);
  }
  // No address that appears by itself while snapshots are compared.
  await netns.exec(['ip', 'link', 'set', 'eth0', 'addrgenmode', 'none', 'up']);
}

/** One answered echo request; throws with ping's words otherwise. Not `-W`, which after an ICMP error waits for ten seconds. */
export async function ping(from: TestNetns, to: string, options: readonly string[] = []): Promise<string> {
  return from.exec(['ping', '-n', '-c', '1', '-w', '3', ...options, to]);
}

/** Retries `probe` until it is true; fails after `timeoutMs`, saying what was waited for. */
export async function until(what: string, probe: () => Promise<boolean>, timeoutMs = 20_000): Promise<void> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    if (await probe()) return;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** Packets of a named counter of the table. */
export async function counter(netns: TestNetns, name: string): Promise<number> {
  const listed = await netns.json<{
    readonly nftables: readonly { readonly counter?: { readonly packets: number } }[];
  }>(['nft', '-j', 'list', 'counter', 'inet', 'weft', name]);
  return listed.nftables.find((object) => object.counter)?.counter?.packets ?? -1;
}

const sysctls = [
  'ipv4/ip_forward',
  'ipv4/conf/weft0/rp_filter',
  ...['forwarding', 'route_localnet'].map((name) => `ipv4/conf/weftp*/${name}`),
  ...['accept_ra', 'disable_ipv6'].map((name) => `ipv6/conf/weftp*/${name}`),
];

/** Few processes, since each costs more than its answer. With details an address says all that its link does. */
const looks = `
printf 'address\\nroute show table all\\nnexthop\\nneigh show nud permanent\\n' | ip -d -batch -
bridge fdb
nft -s list ruleset
cd /proc/sys/net
grep -H . ${sysctls.join(' ')} 2>/dev/null || true`;

/** Everything of a namespace that the datapath may touch, in the tools' own words, without counters and ages. */
export async function snapshot(netns: TestNetns): Promise<string> {
  const words = await netns.exec(['sh', '-ec', looks]);
  // Details that change by themselves: whether a link has a carrier, which the kernel tells up to a second late; timers of bridges.
  const byThemselves =
    / state (UP|LOWERLAYERDOWN|DOWN|UNKNOWN)|NO-CARRIER,|,LOWER_UP| linkdown| qdisc (noop|noqueue)|\w+_timer +[\d.]+/g;
  return words.replaceAll(byThemselves, '');
}

export { run };
