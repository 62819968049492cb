// The CNI server behind its real socket, asked by the real shim, on Ipam and Datapath that keep state in memory.

import { mkdtemp, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { createServer, type Server } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pino } from 'pino';
import { afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest';

import { type CniServer, startCniServer } from '#agent/cni/server.ts';
import type { NetnsInspector } from '#agent/cni/parts.ts';
import { WeftError } from '#agent/errors.ts';
import { FakeDatapath, FakeIpam } from '#test/support/cni-fakes.ts';
import { runShim, type ShimRun } from '#test/support/shim.ts';
import { buildShim, shimPath } from '../../../cni-shim/build.ts';

const hostInode = 1n;

let directory = '';
let ipam: FakeIpam;
let datapath: FakeDatapath;
let namespaces: Map<string, bigint>;
let server: CniServer | undefined;
let observed: string[];

const inspectNetns: NetnsInspector = (path) => {
  if (path === '/proc/self/ns/net') return { isNetns: true, inode: hostInode };
  if (path === '/etc/passwd') return { isNetns: false, inode: 77n };
  const inode = namespaces.get(path);
  if (inode === undefined) throw Object.assign(new Error(`ENOENT: ${path}`), { code: 'ENOENT' });
  return { isNetns: true, inode };
};

const socketPath = (): string => join(directory, 'run/cni.sock');
const spoolDir = (): string => join(directory, 'spool');

async function start(): Promise<CniServer> {
  server = await startCniServer({
    ipam,
    datapath,
    inspectNetns,
    socketPath: socketPath(),
    spoolDir: spoolDir(),
    log: pino({ level: 'silent' }),
    observe: (verb, outcome) => observed.push(`${verb} ${outcome}`),
  });
  return server;
}

interface Call {
  readonly id?: string;
  readonly netns?: string;
  readonly conf?: Readonly<Record<string, unknown>> | string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal;
}

async function call(verb: string, options: Call = {}): Promise<ShimRun> {
  const id = options.id ?? 'pod1';
  const conf = options.conf ?? {};
  const stdin =
    typeof conf === 'string' ? conf : JSON.stringify({ cniVersion: '1.1.0', name: 'weft', type: 'weft', ...conf });
  const container = { CNI_CONTAINERID: id, CNI_NETNS: options.netns ?? `/ns/${id}`, CNI_IFNAME: 'eth0' };
  const env = {
    CNI_COMMAND: verb,
    CNI_PATH: '/opt/cni/bin',
    ...container,
    WEFT_SOCKET: socketPath(),
    WEFT_SPOOL: spoolDir(),
  };
  return await runShim({
    env: { ...env, ...options.env },
    stdin,
    ...(options.signal === undefined ? {} : { signal: options.signal }),
  });
}

async function addPod(id: string): Promise<ShimRun> {
  namespaces.set(`/ns/${id}`, BigInt(namespaces.size + 100));
  const added = await call('ADD', { id });
  expect(added).toMatchObject({ code: 0 });
  return added;
}

beforeAll(() => {
  buildShim({ output: shimPath });
});

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-cni-'));
  ipam = new FakeIpam();
  datapath = new FakeDatapath();
  namespaces = new Map();
  observed = [];
  server = undefined;
});

afterEach(async () => {
  await server?.close();
  await rm(directory, { recursive: true, force: true });
});

describe('ADD', () => {
  test('gives the result of the configuration’s version', async () => {
    await start();
    namespaces.set('/ns/pod1', 100n);
    const added = await call('ADD', { conf: { dns: { nameservers: ['10.96.0.10'] } } });
    expect(added.code).toBe(0);
    const host = [...datapath.links.keys()][0];
    expect(added.json).toEqual({
      cniVersion: '1.1.0',
      interfaces: [
        { name: host, mac: 'ee:ee:ee:ee:ee:ee', mtu: 1450 },
        { name: 'eth0', mac: '0a:58:0a:20:00:02', mtu: 1450, sandbox: '/ns/pod1' },
      ],
      ips: [{ address: '10.32.0.2/32', gateway: '169.254.1.1', interface: 1 }],
      routes: [{ dst: '0.0.0.0/0', gw: '169.254.1.1' }],
      dns: { nameservers: ['10.96.0.10'] },
    });
    expect(ipam.leases()).toMatchObject([{ state: 'active', owner: { network: 'weft', netnsInode: 100n } }]);
    expect(observed).toEqual(['ADD ok']);
  });

  test('repeated fails with its own code and leaves the first intact', async () => {
    await start();
    await addPod('pod1');
    const before = ipam.leases();
    expect(await call('ADD')).toMatchObject({ code: 1, json: { code: 100 } });
    expect(ipam.leases()).toEqual(before);
    expect(datapath.links.size).toBe(1);
    expect(datapath.calls).toEqual(['attach pod1']);
  });
});
