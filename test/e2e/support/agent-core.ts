// The real core of one agent with the token of its own node, over a real API server: discovery, registry and IPAM, without a datapath.
import { join } from 'node:path';

import { startKubernetesDiscovery } from '#agent/discovery/kubernetes.ts';
import { openKubernetesRegistry } from '#agent/registry/kubernetes/kubernetes-registry.ts';
import { type IpamOptions, type RunningIpam, startIpam } from '#agent/runtime/start.ts';
import type { ApiServer } from '#test/support/api-server.ts';
import type { NodeAgent } from './node-agents.ts';

export interface AgentCore {
  readonly agent: NodeAgent;
  readonly ipam: RunningIpam;
  stop(): Promise<void>;
}

const brisk = {
  sessionTermMs: 3000,
  sessionRenewMs: 1000,
  takeOverAfterMs: 3000,
  takeOverStepMs: 1000,
  resyncMs: 2000,
};

/** Resolves when the agent has its first block. `note` hears every warning. */
export async function startCore(
  server: ApiServer,
  agent: NodeAgent,
  note: (line: string) => void,
  timing: NonNullable<IpamOptions['timing']> = {},
): Promise<AgentCore> {
  const { node, kubeConfig } = agent;
  const noted = (...parts: readonly unknown[]): void => note(JSON.stringify(parts));
  const quiet = (): void => undefined;
  const log = { trace: quiet, debug: quiet, info: quiet, warn: noted, error: noted } as never;
  const stateDir = join(server.directory, `state-${node}`);
  const discovery = await startKubernetesDiscovery({ nodeName: node, stateDir, kubeConfig, lookEveryMs: 2000, log });
  const registry = await openKubernetesRegistry({ namespace: 'weft', kubeConfig, log });
  const ipam = await startIpam({
    registry,
    statePath: join(stateDir, 'state.db'),
    node: discovery.self,
    universe: { name: 'default', ranges: ['10.32.0.0/12'], reserved: [] },
    ...(discovery.nodeExists && { nodeExists: discovery.nodeExists.bind(discovery) }),
    timing: { ...brisk, ...timing },
    log,
  });
  const tell = (): void => {
    const uids = discovery.goneUids?.();
    if (uids !== undefined) ipam.setGone(uids);
  };
  discovery.onChange(tell);
  tell();
  const stopAttending = discovery.attend?.(ipam);
  await ipam.whenReady(AbortSignal.timeout(60_000));
  return {
    agent,
    ipam,
    stop: async () => {
      stopAttending?.();
      await ipam.close();
      await registry.close();
      await discovery.close();
      agent[Symbol.dispose]();
    },
  };
}
