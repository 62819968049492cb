// An Ethernet segment outside a host, as `ipam.type: dhcp` needs it: a switch with a real DHCP server (busybox udhcpd) that is also its
// router, a neighbour, and the daemon of the reference plugin `dhcp` on the host.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { appendFile, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

import { referencePlugins } from '#test/support/conf-list.ts';
import { TestNetns } from '#test/support/netns.ts';

export const serverAddress = '192.168.77.1';
export const neighbourAddress = '192.168.77.9';
const leaseSeconds = 8;

/** Counts what the server is told, by the type of the message (RFC 2132, 9.6), the first option of whatever the plugin's daemon sends. */
const counters = `table inet told {
  counter discover { }
  counter request { }
  counter release { }
  chain in {
    type filter hook input priority 0; policy accept;
    udp dport 67 @th,1984,24 0x350101 counter name discover
    udp dport 67 @th,1984,24 0x350103 counter name request
    udp dport 67 @th,1984,24 0x350107 counter name release
  }
}`;

export class DhcpSegment implements AsyncDisposable {
  readonly server: TestNetns;
  readonly neighbour: TestNetns;
  readonly #host: TestNetns;
  readonly #directory: string;
  #udhcpd: ChildProcess | undefined;
  #daemon: ChildProcess | undefined;

  private constructor(host: TestNetns, server: TestNetns, neighbour: TestNetns, directory: string) {
    this.#host = host;
    this.server = server;
    this.neighbour = neighbour;
    this.#directory = directory;
  }

  /** The host's card in it is `lan0`. Server and daemon are not started. */
  static async create(host: TestNetns): Promise<DhcpSegment> {
    const directory = await mkdtemp(join(tmpdir(), 'weft-dhcp-'));
    const [server, neighbour] = [await TestNetns.create('dhcp'), await TestNetns.create('near')];
    const lines = `ip link add br0 type bridge; ip link set br0 up; ip address add ${serverAddress}/24 dev br0
      ip link add toHost type veth peer name lan0 netns ${host.name}; ip link set toHost master br0 up
      ip link add toNear type veth peer name eth0 netns ${neighbour.name}; ip link set toNear master br0 up`;
    await server.exec(['sh', '-ec', lines]);
    await neighbour.exec(['sh', '-ec', `ip address add ${neighbourAddress}/24 dev eth0; ip link set eth0 up`]);
    await server.exec(['nft', counters]);
    const conf = `start 192.168.77.20\nend 192.168.77.99\ninterface br0\nmin_lease 1\noffer_time 1
option subnet 255.255.255.0\noption router ${serverAddress}\noption lease ${leaseSeconds}\noption domain lan.test
lease_file ${directory}/leases\npidfile ${directory}/udhcpd.pid\n`;
    await writeFile(join(directory, 'udhcpd.conf'), conf);
    await appendFile(join(directory, 'leases'), '');
    return new DhcpSegment(host, server, neighbour, directory);
  }

  /** Of the configuration; the daemon's socket is the segment's own. */
  get ipam(): Readonly<Record<string, unknown>> {
    return { type: 'dhcp', daemonSocketPath: join(this.#directory, 'dhcp.sock') };
  }

  /** Resolves when it hears questions: one that is lost costs the daemon seconds. */
  async startServer(): Promise<void> {
    const words = ['busybox', 'udhcpd', '-f', join(this.#directory, 'udhcpd.conf')];
    this.#udhcpd = spawn('nsenter', [`--net=${this.server.path}`, '--', ...words], { stdio: 'ignore' });
    const isListening = async (): Promise<boolean> =>
      / 00000000:0043 /.test(await this.server.exec(['cat', '/proc/net/udp']));
    await until('the server listens', isListening);
  }

  async startDaemon(): Promise<void> {
    const socket = join(this.#directory, 'dhcp.sock');
    await rm(socket, { force: true });
    const words = [join(referencePlugins, 'dhcp'), 'daemon', '-socketpath', socket];
    this.#daemon = spawn('nsenter', [`--net=${this.#host.path}`, '--', ...words], { stdio: 'ignore' });
    await until('the daemon of the plugin dhcp listens', () => Promise.resolve(existsSync(socket)));
  }

  stopServer(): Promise<void> {
    return ended(this.#udhcpd);
  }

  stopDaemon(): Promise<void> {
    return ended(this.#daemon);
  }

  /** How many messages of a kind the server was told. */
  async told(kind: 'discover' | 'request' | 'release'): Promise<number> {
    const text = await this.server.exec(['nft', 'list', 'counter', 'inet', 'told', kind]);
    return Number(/packets (\d+)/.exec(text)?.[1]);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stopServer();
    await this.stopDaemon();
    await this.server[Symbol.asyncDispose]();
    await this.neighbour[Symbol.asyncDispose]();
    await rm(this.#directory, { recursive: true, force: true });
  }
}

async function until(what: string, holds: () => Promise<boolean>): Promise<void> {
  for (let time = 0; !(await holds()); time++) {
    if (time > 200) throw new Error(`in vain waited until ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

async function ended(child: ChildProcess | undefined): Promise<void> {
  if (child === undefined || child.exitCode !== null || child.signalCode !== null) return;
  const gone = new Promise((resolve) => child.once('exit', resolve));
  child.kill('SIGKILL');
  await gone;
}
