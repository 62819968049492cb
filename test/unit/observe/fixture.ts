// One node of three as the observation code sees it; a test changes what it is about.
import type { DatapathStatus } from '#agent/datapath/datapath.ts';
import type { StatusSources } from '#agent/observe/status.ts';
import type { IpamView, Lease, PeerView } from '#agent/runtime/ipam.ts';

export const startMs = 1_800_000_000_000;

export function peer(index: number, blocks: readonly string[], changes: Partial<PeerView> = {}): PeerView {
  return {
    name: `host${index}.0000000${index}`,
    nodeName: `host${index}`,
    self: index === 1,
    underlayAddress: `192.0.2.${index}`,
    overlayAddresses: [`10.32.0.${index}`],
    blocks,
    ...changes,
  };
}

export const view: IpamView = {
  ranges: ['10.32.0.0/12'],
  reserved: [],
  peers: [peer(1, ['10.32.0.0/13']), peer(2, ['10.40.0.0/14']), peer(3, ['10.44.0.0/14'])],
  overlayAddresses: ['10.32.0.1'],
  freeAddresses: 524_284,
  leasedAddresses: 2,
  restingAddresses: 1,
  ready: true,
  waitingFor: '',
  registryAnsweredAtMs: startMs + 58_000,
};

export const datapathStatus: DatapathStatus = {
  ready: true,
  waitingFor: '',
  overlayDevice: 'weft0',
  mtuBytes: 1450,
  vtepMac: '02:00:00:00:00:01',
  podLinks: 2,
  lastReconcileMs: 4,
  reconciles: 7,
  repairs: 1,
  writes: 40,
  findings: [],
};

export function lease(index: number, changes: Partial<Lease> = {}): Lease {
  return {
    containerId: `${index}`.repeat(8).padEnd(64, 'c'),
    ifname: 'eth0',
    generation: '00000000000000aa',
    addresses: [`10.32.0.${index + 10}`],
    owner: {
      podNamespace: 'default',
      podName: `web-${index}`,
      network: 'weft',
      netnsPath: `/run/netns/p${index}`,
      netnsInode: 4_026_532_000n + BigInt(index),
    },
    state: 'active',
    sinceMs: startMs + index * 1000,
    hostIfname: `weft${index}`,
    ...changes,
  };
}

export function sources(changes: Partial<StatusSources> = {}): StatusSources {
  return {
    version: '9.9.9',
    nodeName: 'host1',
    registryEngine: 'peers',
    startedAtMs: startMs,
    starting: () => '',
    ipam: () => view,
    leases: () => [lease(1), lease(2)],
    datapath: () => datapathStatus,
    isProgrammed: () => true,
    nowMs: () => startMs + 60_000,
    ...changes,
  };
}
