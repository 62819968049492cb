// The status as plain text: aligned columns, no colours, so that it reads the same in a terminal, a pipe and a bug report.

import { grouped } from '#agent/observe/counts.ts';
import type { PeerStatus, PoolStatus } from '#agent/observe/pools.ts';
import type { ReachedPeer, Status } from '#agent/observe/status.ts';

/** Rows under a heading, columns as wide as their widest cell, two blanks apart. */
export function table(heading: readonly string[], rows: readonly (readonly string[])[]): string {
  const all = [heading, ...rows];
  const widths = heading.map((_, column) => Math.max(...all.map((row) => (row[column] ?? '').length)));
  const line = (row: readonly string[]): string =>
    row
      .map((cell, column) => cell.padEnd(widths[column] ?? 0))
      .join('  ')
      .trimEnd();
  return `${all.map((row) => line(row)).join('\n')}\n`;
}

/** 90000 as `90 s`, then minutes, hours, days. */
export function duration(ms: number): string {
  if (ms < 90_000) return `${Math.max(0, Math.round(ms / 1000))} s`;
  if (ms < 5_400_000) return `${Math.round(ms / 60_000)} min`;
  return ms < 172_800_000 ? `${Math.round(ms / 3_600_000)} h` : `${Math.round(ms / 86_400_000)} d`;
}

const orNone = (list: readonly string[]): string => (list.length === 0 ? 'none' : list.join(', '));

/** `weft status` */
export function statusText(status: Status): string {
  const { registry, datapath, addresses, nowMs } = status;
  const self = status.peers.find((peer) => peer.self);
  const share = self === undefined || self.blocks.length === 0 ? '' : ` (${self.sharePercent} % of the range)`;
  const answered =
    registry.answeredAtMs === null ? 'no answer yet' : `answered ${duration(nowMs - registry.answeredAtMs)} ago`;
  const facts: readonly (readonly [string, string])[] = [
    ['Node', `${status.nodeName} (weft ${status.version}, up ${duration(nowMs - status.startedAtMs)})`],
    ['Ready', status.ready ? 'yes' : `no: waiting for ${status.waitingFor}`],
    ['Registry', `${registry.engine}, ${answered}`],
    [
      'Range',
      `${orNone(status.ranges)}${status.reserved.length === 0 ? '' : ` without ${status.reserved.join(', ')}`}`,
    ],
    ['Own blocks', `${orNone(self?.blocks ?? [])}${share}`],
    [
      'Addresses',
      `${grouped(addresses.free)} free, ${grouped(addresses.leased)} leased, ${grouped(addresses.resting)} resting`,
    ],
    [
      'Overlay',
      datapath === null
        ? 'not there yet'
        : `${datapath.overlayDevice} ${orNone(status.overlayAddresses)}, MTU ${datapath.mtuBytes}, ${datapath.peersProgrammed} of ${status.peers.filter((peer) => !peer.self).length} peers programmed`,
    ],
    ['Pods', datapath === null ? 'unknown' : `${datapath.podLinks}`],
    ['Findings', status.findings.length === 0 ? 'none' : `${status.findings.length}`],
  ];
  const lines = facts.map(([name, value]) => `${name.padEnd(11)} ${value}`);
  const findings = status.findings.flatMap(({ severity, name, message, nextStep }) => [
    `  ${severity} ${name}: ${message}`,
    `    ${nextStep}`,
  ]);
  return `${[...lines, ...findings].join('\n')}\n`;
}

function nameOf({ self, nodeName, gone, heir }: PeerStatus): string {
  if (self) return `${nodeName} (this node)`;
  if (heir !== undefined) return `${nodeName} (gone, ${heir} takes over)`;
  return gone === true ? `${nodeName} (gone)` : nodeName;
}

function pathCells({ path, programmed }: ReachedPeer): readonly string[] {
  if (!programmed) return ['not yet', '-', '-', '-'];
  if (path === null) return ['-', '-', '-', '-'];
  const { via, rttMs, lossPercent, pathMtuBytes } = path;
  return [
    via,
    rttMs === undefined ? '-' : `${rttMs.toPrecision(3)} ms`,
    lossPercent === undefined ? '-' : `${lossPercent} %`,
    pathMtuBytes === undefined ? '-' : `${pathMtuBytes}`,
  ];
}

/** `weft peers` */
export function peersText({ peers }: Status): string {
  if (peers.length === 0) return 'no peers known yet\n';
  return table(
    ['NODE', 'UNDERLAY', 'OVERLAY', 'BLOCKS', 'VIA', 'ROUND TRIP', 'LOSS', 'PATH MTU', 'RECORD'],
    peers.map((peer) => [
      nameOf(peer),
      peer.underlayAddress ?? 'unknown',
      orNone(peer.overlayAddresses),
      `${peer.blocks.length}`,
      ...pathCells(peer),
      peer.name,
    ]),
  );
}

/** `weft ipam` */
export function ipamText(status: Status): string {
  const { ranges, reserved, peers, addresses, pools } = status;
  if (ranges.length === 0) return `the range is not known yet: waiting for ${status.waitingFor || 'the registry'}\n`;
  const further = pools.filter((pool) => pool.name !== 'default');
  const blocks =
    further.length === 0 ? holders(ranges, reserved, addresses, peers) : pools.map((pool) => poolText(pool)).join('\n');
  return `${blocks}\n${troublesText(pools)}${leasesText(status)}`;
}

/** What is not as it should be with a pool: its Universe, and blocks that another record has too. */
function troublesText(pools: readonly PoolStatus[]): string {
  const lines = pools.flatMap(({ name, ended, conflicts = [], unowned = [] }) => [
    ...(ended === undefined ? [] : [`Pool ${name}: ${ended.text}.`]),
    ...conflicts.map(
      (one) =>
        `Pool ${name}: ${one.blocks.join(', ')} of this node is also in the record ${one.name}${one.gone ? ', whose node is gone' : ''}.`,
    ),
    ...(unowned.length === 0 ? [] : [`Pool ${name}: ${unowned.join(', ')} is in no node's record.`]),
  ]);
  return lines.length === 0 ? '' : `${lines.join('\n')}\n\n`;
}

/** Who has which address on this node, the newest first. */
function leasesText({ leases, leasesTotal, nowMs, nodeName }: Status): string {
  if (leasesTotal === 0) return `No pod has an address on ${nodeName}.\n`;
  const rows = leases.map(({ addresses, pod, containerId, ifname, state, sinceMs }) => [
    addresses.join(' '),
    pod === '' ? 'not told' : pod,
    `${containerId.slice(0, 13)}/${ifname}`,
    `${duration(nowMs - sinceMs)}${state === 'pending' ? ', being added' : ''}`,
  ]);
  const left = leasesTotal - leases.length;
  return `${table(['ADDRESS', 'POD', 'CONTAINER', 'SINCE'], rows)}${left > 0 ? `and ${left} more\n` : ''}`;
}

function poolText(pool: PoolStatus): string {
  const { name, namespaces, ranges, reserved, peers, freeAddresses, leasedAddresses, restingAddresses } = pool;
  const counts = { free: freeAddresses, leased: leasedAddresses, resting: restingAddresses };
  const pods =
    name === 'default' ? 'all that name no other pool' : namespaces.map((one) => `namespace ${one}`).join(', ');
  const heading = [`Pool      ${name}`, `Pods      ${pods || 'those that name it'}`];
  if (pool.waitingFor !== '') heading.push(`Waiting   ${pool.waitingFor}`);
  return `${heading.join('\n')}\n${holders(ranges, reserved, counts, peers)}`;
}

function holders(
  ranges: readonly string[],
  reserved: readonly string[],
  counts: Status['addresses'],
  peers: readonly PeerStatus[],
): string {
  const rows = peers.flatMap((peer): readonly (readonly string[])[] =>
    peer.blocks.length === 0
      ? [[nameOf(peer), 'none', '0', '0 %']]
      : peer.blocks.map((block, at) => [
          at === 0 ? nameOf(peer) : '',
          block,
          at === 0 ? grouped(peer.addresses) : '',
          at === 0 ? `${peer.sharePercent} %` : '',
        ]),
  );
  return [
    `Range     ${ranges.join(', ')}`,
    `Reserved  ${orNone(reserved)}`,
    `This node ${grouped(counts.free)} free, ${grouped(counts.leased)} leased, ${grouped(counts.resting)} resting`,
    '',
    table(['NODE', 'BLOCK', 'ADDRESSES', 'SHARE'], rows),
  ].join('\n');
}
