// What the lab tells a person once it is up.

import { table } from '#agent/cli/text.ts';
import { grouped } from '#agent/observe/counts.ts';
import type { Status } from '#agent/observe/status.ts';
import type { RunningPod } from '#test/lab/pods.ts';

/** Who holds which part of the range, as one agent sees it. */
export function splitText({ ranges, peers }: Status): string {
  const rows = peers
    .toSorted((a, b) => a.nodeName.localeCompare(b.nodeName, 'en', { numeric: true }))
    .map((peer) => [peer.nodeName, peer.blocks.join(', '), grouped(peer.addresses), `${peer.sharePercent} %`]);
  return `How the hosts share ${ranges.join(', ')} (agreed by consensus, nobody planned it):\n\n${table(['host', 'blocks', 'addresses', 'share'], rows)}`;
}

/** Where to look next. */
export function nextSteps(port: number, pods: readonly RunningPod[]): string {
  const [first] = pods;
  const remote = pods.find((pod) => pod.host !== first?.host);
  const lines = [
    ['status page of host1', `http://127.0.0.1:${port}/`],
    ['the command weft', 'ip netns exec weft-lab-host1 node_modules/.bin/node agent/cli/weft.ts ipam'],
    ['routes of a host', 'ip -n weft-lab-host1 route'],
    ['firewall of a host', 'ip netns exec weft-lab-host1 nft list table inet weft'],
    ...(first === undefined || remote === undefined
      ? []
      : [['pod to pod', `ip netns exec ${first.netns} ping ${remote.address}`]]),
  ];
  return `Look next (in another terminal, as root, in ${process.cwd()}):\n\n${lines.map(([what = '', how = '']) => `  ${what.padEnd(22)}${how}`).join('\n')}\n\nCtrl-C removes every trace.`;
}
