// STATUS: with containerd 2 an error turns the node NotReady and takes its running pods out of every Service. So there are two: 50 while
// no agent has served since the node booted, and 51 while the pods that run here are cut off from other nodes, and have been for a
// while. A full range, a registry that is away and an agent that restarts are none.

import type { Datapath, DatapathFinding } from '#agent/datapath/datapath.ts';
import { WeftError } from '#agent/errors.ts';
import type { Ipam } from '#agent/runtime/ipam.ts';

/** Whether ADDs can be served by this agent: the datapath stands and the node has space of its own, be it full. */
export function canServe(ipam: Ipam, datapath: Datapath): { readonly ready: boolean; readonly waitingFor: string } {
  const path = datapath.status();
  if (!path.ready) return { ready: false, waitingFor: path.waitingFor };
  const view = ipam.view();
  const hasSpace = view.ready || view.overlayAddresses.length > 0;
  return hasSpace ? { ready: true, waitingFor: '' } : { ready: false, waitingFor: view.waitingFor };
}

/** What forwards each family's packets; the subject of its finding. */
const switches = ['net.ipv4.ip_forward', 'net.ipv6.conf.all.forwarding'] as const;

/** The finding under which no pod of this node is reached by another node's, however sound it is itself. Of two families one is enough to live. */
function cutOff(ipam: Pick<Ipam, 'view'>, datapath: Pick<Datapath, 'status'>): DatapathFinding | undefined {
  const { findings } = datapath.status();
  const down = findings.find(({ name }) => name === 'underlayDown');
  const off = findings.filter(({ name }) => name === 'forwardingOff');
  if (down !== undefined || off.length === 0) return down;
  const served = ipam.view().overlayAddresses.map((address) => switches[address.includes(':') ? 1 : 0]);
  return served.every((name) => off.some(({ subject }) => subject === name)) ? off[0] : undefined;
}

/** kubelet makes containerd look every five seconds: what heals by itself in this time takes no pod out of a Service. */
const patienceMs = 30_000;

/** How long pods of this node have been cut off, by the looks of STATUS. */
export class Suffering {
  #sinceMs: number | undefined;
  #lookedMs = -Infinity;

  /** The finding that every look of the last thirty seconds, and of longer, has shown while there were pods. `nowMs` is monotonic. */
  look(
    ipam: Pick<Ipam, 'leases' | 'view'>,
    datapath: Pick<Datapath, 'status'>,
    nowMs: number,
  ): DatapathFinding | undefined {
    const found = ipam.leases().length === 0 ? undefined : cutOff(ipam, datapath);
    // Between looks far apart it may have been well.
    if (found === undefined || nowMs - this.#lookedMs > patienceMs) this.#sinceMs = undefined;
    this.#lookedMs = nowMs;
    if (found !== undefined) this.#sinceMs ??= nowMs;
    return this.#sinceMs !== undefined && nowMs - this.#sinceMs >= patienceMs ? found : undefined;
  }
}

/**
 * Throws WeftError: `statusUnavailable` when neither this agent nor one before it has served since the boot, `statusDegraded` with what
 * the pods suffer from.
 */
export function status(
  servedSinceBoot: boolean,
  ipam: Ipam,
  datapath: Datapath,
  suffering: Suffering,
  nowMs: number = performance.now(),
): void {
  const finding = suffering.look(ipam, datapath, nowMs);
  if (finding !== undefined) {
    throw new WeftError('statusDegraded', `pods of this node are cut off: ${finding.subject}: ${finding.message}`, {
      details: finding.name,
    });
  }
  const now = canServe(ipam, datapath);
  if (servedSinceBoot || now.ready) return;
  throw new WeftError('statusUnavailable', `the weft agent is starting and waits for ${now.waitingFor}`, {
    details: now.waitingFor,
  });
}
