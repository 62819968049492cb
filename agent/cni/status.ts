// STATUS: with containerd 2 an error turns the node NotReady and takes its running pods out of every Service. So it is an error only
// while no agent has served since the node booted; a full range, a registry that is away and an agent that restarts are none.

import type { Datapath } from '#agent/datapath/datapath.ts';
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

/** Throws WeftError('statusUnavailable') when neither this agent nor one before it has served since the boot. */
export function status(servedSinceBoot: boolean, ipam: Ipam, datapath: Datapath): void {
  const now = canServe(ipam, datapath);
  if (servedSinceBoot || now.ready) return;
  throw new WeftError('statusUnavailable', `the weft agent is starting and waits for ${now.waitingFor}`, {
    details: now.waitingFor,
  });
}
