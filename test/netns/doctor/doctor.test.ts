// Each finding of the host's checks, by creating its fault on a host; and none on a host without faults.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { isDeepStrictEqual } from 'node:util';

import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import { hostConditions } from '#agent/doctor/checks.ts';
import type { CheckedNode } from '#agent/doctor/checks.ts';
import { gatherFacts, type HostFacts } from '#agent/doctor/facts.ts';
import { kernelConditions } from '#agent/doctor/kernel-features.ts';
import { AgentHost } from '#test/support/agent-host.ts';
import { TestNetns } from '#test/support/netns.ts';
import { programPath } from '#test/support/programs.ts';

const weft = programPath('weft');

describe('checks of a host', { timeout: 30_000 }, () => {
  let host: TestNetns;
  let directory: string;
  let conflistPath: string;

  beforeEach(async () => {
    host = await TestNetns.create('host');
    directory = await mkdtemp(join(tmpdir(), 'weft-doctor-'));
    conflistPath = join(directory, '05-weft.conflist');
    await writeFile(conflistPath, '{}');
    await sh(`ip link add eth0 type veth peer name wire0; ip address add 192.0.2.1/24 dev eth0
      ip link set eth0 addrgenmode none; ip link set wire0 addrgenmode none
      ip link set wire0 up; ip link set eth0 up; ip route add default via 192.0.2.254`);
  });
  afterEach(async () => {
    await host[Symbol.asyncDispose]();
    await rm(directory, { recursive: true, force: true });
  });

  const sh = async (commands: string): Promise<string> => host.exec(['sh', '-ec', commands]);

  async function examine(
    node: Partial<CheckedNode> = {},
    changes: Partial<DatapathSettings> = {},
  ): Promise<readonly (readonly [string, string])[]> {
    const settings = { ...defaultDatapathSettings, netnsPath: host.path, ...changes };
    using io = openKernelIo(settings);
    const facts = await gatherFacts({ io, settings, conflistPath, underlayAddress: '192.0.2.1' });
    const whole: CheckedNode = {
      ranges: ['10.32.0.0/12', 'fd42::/48'],
      reserved: ['10.47.0.0/16'],
      ownBlocks: ['10.40.0.0/14'],
      underlayAddress: '192.0.2.1',
      peers: [
        { nodeName: 'b', underlayAddress: '192.0.2.2' },
        { nodeName: 'c', underlayAddress: '192.0.2.3' },
      ],
      machineIds: new Map(),
      serviceAddress: '10.96.0.1',
      serviceRanges: [],
      conflistPath,
      ...node,
    };
    const found = [...kernelConditions(io), ...hostConditions(facts, whole, settings)];
    return found.map(({ name, subject }) => [name, subject]);
  }

  it('find nothing on a host without faults, and leave no trace', async () => {
    await sh(
      'ip route add 10.47.1.0/24 via 192.0.2.9; ip link add br0 type bridge; ip address add 10.40.7.1/24 dev br0; ip link set br0 up',
    );
    const look = async (): Promise<string> =>
      (await sh('ip link; ip route; nft list ruleset')).replaceAll(/ state [A-Z]+|<[A-Z,_]+>/g, '');
    const before = await look();
    expect(
      await examine({
        machineIds: new Map([
          ['a', '1'],
          ['b', '2'],
        ]),
      }),
    ).toEqual([]);
    expect(await look()).toBe(before);
  });

  const faults: readonly (readonly [
    what: string,
    expected: readonly [string, string],
    commands: string,
    node?: Partial<CheckedNode>,
    settings?: Partial<DatapathSettings>,
  ])[] = [
    [
      'a route of the host inside the range',
      ['rangeOverlapsRoute', '10.33.0.0/16'],
      'ip route add 10.33.0.0/16 via 192.0.2.9',
    ],
    [
      'a route of the host around the range',
      ['rangeOverlapsRoute', '10.0.0.0/8'],
      'ip route add 10.0.0.0/8 via 192.0.2.9',
    ],
    [
      'a route to elsewhere inside the own block',
      ['rangeOverlapsRoute', '10.40.9.0/24'],
      'ip route add 10.40.9.0/24 via 192.0.2.9',
    ],
    [
      'an address of the host in the range',
      ['rangeOverlapsRoute', '10.35.0.1/32'],
      'ip address add 10.35.0.1/32 dev lo',
    ],
    ['an IPv6 route in the range', ['rangeOverlapsRoute', 'fd42::/64'], 'ip -6 route add fd42::/64 dev eth0'],
    [
      'the Service range inside the range',
      ['rangeOverlapsServices', '10.36.0.1'],
      'true',
      { serviceAddress: '10.36.0.1' },
    ],
    [
      'a ServiceCIDR that reaches into the range, beside one that does not',
      ['rangeOverlapsServices', '10.46.0.0/15'],
      'true',
      {
        serviceRanges: [
          { cidr: '10.96.0.0/12', by: 'the service range of ServiceCIDR kubernetes' },
          { cidr: '10.46.0.0/15', by: 'the service range of ServiceCIDR more' },
          { cidr: '10.47.0.0/16', by: 'the service range of ServiceCIDR reserved' },
        ],
      },
    ],
    [
      'a VXLAN device with the same port and VNI',
      ['vxlanPortTaken', 'UDP 6784'],
      'ip link add other0 type vxlan id 6784 dstport 6784 dev eth0; ip link set other0 up',
    ],
    [
      'a VXLAN device of every VNI on the port, such as Weave Net’s',
      ['vxlanPortTaken', 'UDP 6784'],
      'ip link add other0 type vxlan external dstport 6784; ip link set other0 up',
    ],
    ['an MTU setting that is too large', ['mtuTooLarge', 'eth0'], 'ip link set eth0 mtu 1400', {}, { mtuBytes: 1400 }],
    [
      'a strict reverse path filter with mode auto',
      ['rpFilterStrict', 'eth0'],
      'sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.eth0.rp_filter=1',
      {},
      { overlayMode: 'auto' },
    ],
    [
      'two peers with one link address',
      ['duplicateLinkAddress', 'c'],
      'for peer in 2 3; do ip neigh add 192.0.2.$peer lladdr 02:00:00:00:00:09 dev eth0 nud permanent; done',
    ],
    [
      'two nodes with one machine id',
      ['duplicateMachineId', 'b'],
      'true',
      {
        machineIds: new Map([
          ['a', '1'],
          ['b', '1'],
        ]),
      },
    ],
    ['a network that sorts before', ['cniConfigFirst', '00-other.conf'], `echo '{"type":"bridge"}' >DIR/00-other.conf`],
    ['a file that is no JSON', ['cniConfigBroken', '99-broken.conflist'], `echo '{' >DIR/99-broken.conflist`],
    ['a file without a plugin', ['cniConfigBroken', '99-empty.conf'], `echo '{}' >DIR/99-empty.conf`],
    [
      'a link that flannel left',
      ['leftoverNetwork', 'flannel.1'],
      'ip link add flannel.1 type vxlan id 1 dstport 8472 dev eth0',
    ],
    ['a link that Weave Net left', ['leftoverNetwork', 'weave'], 'ip link add weave type bridge'],
    [
      'a bridge with addresses that are not Weft’s',
      ['leftoverNetwork', 'cni0'],
      'ip link add cni0 type bridge; ip address add 10.244.3.1/24 dev cni0',
    ],
    [
      'a network configuration that flannel left',
      ['leftoverNetwork', '10-flannel.conflist'],
      `echo '{"plugins":[{"type":"flannel"},{"type":"portmap"}]}' >DIR/10-flannel.conflist`,
    ],
    [
      'tables that flannel left',
      ['leftoverNetwork', 'flannel-ipv4'],
      'for f in ip:4 ip6:6; do nft add table ${f%:*} flannel-ipv${f#*:}; nft add chain ${f%:*} flannel-ipv${f#*:} forward; done',
    ],
    [
      'rules that Weave Net left',
      ['leftoverNetwork', 'WEAVE-NPC'],
      'nft add table ip filter; nft add chain ip filter WEAVE-NPC; nft add chain ip filter WEAVE-NPC-EGRESS',
    ],
  ];
  /** What the finding's next step says, done as it stands: commands, or another setting. */
  const remedies: Readonly<Record<string, string | Partial<CheckedNode> | Pick<DatapathSettings, 'mtuBytes'>>> = {
    'a route of the host inside the range': 'ip route del 10.33.0.0/16',
    'a route of the host around the range': 'ip route del 10.0.0.0/8',
    'a route to elsewhere inside the own block': 'ip route del 10.40.9.0/24',
    'an address of the host in the range': 'ip address del 10.35.0.1/32 dev lo',
    'an IPv6 route in the range': 'ip -6 route del fd42::/64 dev eth0',
    'the Service range inside the range': { reserved: ['10.36.0.0/16'] },
    'a ServiceCIDR that reaches into the range, beside one that does not': { serviceRanges: [] },
    'a VXLAN device with the same port and VNI': 'ip link del other0',
    'a VXLAN device of every VNI on the port, such as Weave Net’s': 'ip link del other0',
    'an MTU setting that is too large': { mtuBytes: 1350 },
    'a strict reverse path filter with mode auto': 'sysctl -w net.ipv4.conf.all.rp_filter=2',
    'two peers with one link address': 'ip neigh replace 192.0.2.3 lladdr 02:00:00:00:00:0a dev eth0 nud permanent',
    'two nodes with one machine id': { machineIds: new Map([['a', '1']]) },
    'a network that sorts before': 'rm DIR/00-other.conf',
    'a file that is no JSON': 'rm DIR/99-broken.conflist',
    'a file without a plugin': 'rm DIR/99-empty.conf',
    // As docs/leftovers.md has them.
    'a link that flannel left': 'ip link del flannel.1; ip link del flannel-v6.1 || ip link del cni0 || true',
    'a link that Weave Net left': 'ip link del weave',
    'a bridge with addresses that are not Weft’s': 'ip link del cni0',
    'a network configuration that flannel left': 'rm -f DIR/10-flannel.conflist',
    'tables that flannel left': 'nft delete table ip flannel-ipv4; nft delete table ip6 flannel-ipv6',
    'rules that Weave Net left': 'iptables-save | grep -v WEAVE | iptables-restore',
  };

  /** Without the groups that the kernel joins in its own time after a link changes (`ff02::1:ff…`). */
  const settled = (facts: HostFacts): HostFacts => ({
    ...facts,
    neighbours: facts.neighbours.filter(({ mac }) => !mac.startsWith('33:33:')),
  });
  for (const [what, expected, commands, node, settings] of faults) {
    it(what, async () => {
      const whole = { ...defaultDatapathSettings, netnsPath: host.path };
      using io = openKernelIo(whole);
      const sources = { io, settings: whole, conflistPath, underlayAddress: '192.0.2.1' };
      const memory = {};
      // A link tells up to a second late that it has a carrier.
      const isRemembered = async (): Promise<boolean> => {
        const { links } = await gatherFacts({ ...sources, memory });
        return (await gatherFacts({ ...sources, memory })).links === links;
      };
      await expect.poll(isRemembered, { timeout: 10_000 }).toBe(true);
      await sh(commands.replaceAll('DIR', directory));
      // What an agent remembers of its last check hides nothing.
      const isSame = async (): Promise<boolean> =>
        isDeepStrictEqual(settled(await gatherFacts({ ...sources, memory })), settled(await gatherFacts(sources)));
      await expect.poll(isSame, { timeout: 10_000 }).toBe(true);
      expect(await examine(node, settings)).toEqual([expected]);
      const remedy = remedies[what];
      if (remedy === undefined) throw new Error(`what does the next step of "${what}" say?`);
      if (typeof remedy === 'string') await sh(remedy.replaceAll('DIR', directory));
      const mended = typeof remedy === 'string' ? {} : remedy;
      expect(await examine({ ...node, ...mended }, { ...settings, ...mended })).toEqual([]);
    });
  }

  it("a program on the overlay's port is named with its pid, once though it has a socket for each family", async () => {
    const program = `const { createSocket } = require('node:dgram');
      createSocket('udp4').bind(6784, () =>
        createSocket({ type: 'udp6', ipv6Only: true }).bind(6784, () => console.log('bound')))`;
    const child = spawn('nsenter', [`--net=${host.path}`, '--', process.execPath, '-e', program], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      await once(child.stdout, 'data');
      expect(await examine()).toEqual([['vxlanPortTaken', 'UDP 6784']]);
    } finally {
      child.kill('SIGKILL');
      await once(child, 'exit');
    }
  });

  it('a kernel without a feature: every missing one is named, nothing is left', () => {
    const tried: string[] = [];
    const refuse = (): never => {
      throw new Error('Operation not supported');
    };
    using io = openKernelIo({ ...defaultDatapathSettings, netnsPath: host.path });
    const crippled = {
      ...io,
      route: { batchOrThrow: refuse, batch: () => tried.push('tidied') && [], dump: refuse },
      nft: { run: refuse },
    } as unknown as typeof io;
    const names = kernelConditions(crippled).map(({ name }) => name);
    expect(names).toEqual(Array.from({ length: 4 }, () => 'kernelFeatureMissing'));
    expect(tried).toEqual(['tidied', 'tidied']);
  });

  it(
    'a running agent is asked again after each step: a route that comes into the range is told at once, and no more once it is gone',
    { timeout: 90_000 },
    async () => {
      await using agent = await AgentHost.create('own netns');
      const { netns } = agent;
      if (netns === undefined) throw new Error('the host has a namespace');
      await agent.start();
      const doctor = ['sh', '-c', `'${process.execPath}' '${weft}' doctor || true`];
      const env = { ...process.env, WEFT_CONFIG: join(agent.directory, 'config.json') };
      // At most one look a second.
      const told = async (): Promise<string> => sleep(1000).then(async () => netns.exec(doctor, { env }));
      expect(await told()).not.toContain('rangeOverlapsRoute');
      await netns.exec(['ip', 'route', 'add', '10.33.0.0/16', 'via', '192.168.50.9']);
      expect(await told()).toContain('error rangeOverlapsRoute: 10.33.0.0/16');
      await netns.exec(['ip', 'route', 'del', '10.33.0.0/16']);
      expect(await told()).not.toContain('rangeOverlapsRoute');
    },
  );

  it('weft doctor --before-install tells of them with their next step, and ends with 1', async () => {
    await sh('ip route add 10.33.0.0/16 via 192.0.2.9');
    const env = { ...process.env, WEFT_CONFLIST_PATH: conflistPath, WEFT_NODE_NAME: 'a' };
    const doctor = ['sh', '-c', `'${process.execPath}' '${weft}' doctor --before-install || echo "ended with $?"`];
    const told = await host.exec(doctor, { env });
    expect(told).toContain('error rangeOverlapsRoute: 10.33.0.0/16');
    expect(told).toContain('choose another range');
    expect(told).toMatch(/ended with 1\n$/);
    await sh('ip route del 10.33.0.0/16');
    expect(await host.exec(doctor, { env })).toBe('no findings\n');
  });

  it('weft doctor without an agent says nothing of Services in the range: who founds the network leaves them out', async () => {
    const env = { ...process.env, WEFT_CONFLIST_PATH: conflistPath, KUBERNETES_SERVICE_HOST: '10.43.0.1' };
    expect(await host.exec([process.execPath, weft, 'doctor', '--before-install'], { env })).toBe('no findings\n');
  });
});
