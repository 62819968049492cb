// The two outside worlds, Kubernetes and static hosts, differ only here: which discovery and which registry the settings ask for.
// Each engine is loaded only when it is used, because the Kubernetes client costs memory that static hosts need not pay.

import { join } from 'node:path';
import type { InUse } from '#ipam-peer/events.ts';
import type { Config } from '#agent/config.ts';
import type { Discovery } from '#agent/discovery/discovery.ts';
import type { NodeEventsOptions } from '#agent/discovery/node-events.ts';
import { WeftError } from '#agent/errors.ts';
import type { Logger } from '#agent/observe/log.ts';
import type { Registry } from '#agent/registry/registry.ts';

export async function openRegistry(config: Config, log: Logger): Promise<Registry> {
  if (config.registry === 'kubernetes') {
    const { openKubernetesRegistry } = await import('#agent/registry/kubernetes/kubernetes-registry.ts');
    return openKubernetesRegistry({ namespace: config.namespace, ...apiOf(config), log });
  }
  const { openPeersRegistry } = await import('#agent/registry/peers/peers-registry.ts');
  const { readTlsFiles } = await import('#agent/registry/peers/tls.ts');
  const tls = { ca: config.tlsCa, cert: config.tlsCert, key: config.tlsKey };
  await readTlsFiles(tls, config.nodeName);
  const voters = config.voters.map((name) => {
    const address = config.nodes.find((node) => node.name === name)?.addresses[0];
    if (address === undefined) throw new WeftError('invalidSetting', `voters: ${name} has no address under nodes`);
    return { name, address, port: config.peersPort };
  });
  return openPeersRegistry({
    self: config.nodeName,
    voters,
    tls,
    statePath: join(config.stateDir, 'voter.db'),
    log,
  });
}

/** `signal` ends the wait for the API server on a node that has no identity yet. */
export async function openDiscovery(config: Config, log: Logger, signal: AbortSignal): Promise<Discovery> {
  const { nodeName, nodes, stateDir, takeOverAfterMs } = config;
  if (config.discovery === 'kubernetes') {
    const { startKubernetesDiscovery } = await import('#agent/discovery/kubernetes.ts');
    const lookEveryMs = takeOverAfterMs / 2;
    return startKubernetesDiscovery({ nodeName, stateDir, ...apiOf(config), lookEveryMs, signal, log });
  }
  const { startStaticDiscovery } = await import('#agent/discovery/static.ts');
  return startStaticDiscovery({ nodeName, nodes, stateDir, log });
}

/** Tells the outside world that pods can start here, where it wants to know. Resolves when told, or when the signal aborts. */
export async function reportReady(config: Config, log: Logger, signal: AbortSignal): Promise<void> {
  if (config.discovery !== 'kubernetes') return;
  const { reportNetworkAvailable } = await import('#agent/discovery/node-condition.ts');
  await reportNetworkAvailable({ nodeName: config.nodeName, ...apiOf(config), log }, signal);
}

/** Tells the outside world of findings, where it has a place for them, until the signal aborts. */
export async function reportFindings(
  config: Config,
  log: Logger,
  { node, findings }: Pick<NodeEventsOptions, 'node' | 'findings'>,
  signal: AbortSignal,
): Promise<void> {
  if (config.discovery !== 'kubernetes') return;
  const { openKubeApi } = await import('#agent/kubernetes/api.ts');
  const { tellFindings } = await import('#agent/discovery/node-events.ts');
  const api = openKubeApi(apiOf(config));
  try {
    await tellFindings({ api, node, findings, log }, signal);
  } finally {
    api.close();
  }
}

/** The addresses that Kubernetes gives to Services; none without Kubernetes. Throws WeftError('registry'). */
export async function serviceRangesOf(config: Config, signal: AbortSignal): Promise<readonly InUse[]> {
  if (config.registry !== 'kubernetes') return [];
  const { openKubeApi } = await import('#agent/kubernetes/api.ts');
  const { serviceRanges } = await import('#agent/kubernetes/service-ranges.ts');
  const api = openKubeApi(apiOf(config));
  try {
    return await serviceRanges(api, signal);
  } finally {
    api.close();
  }
}

function apiOf({ kubeconfig, apiServer }: Config): { readonly kubeConfig: string; readonly apiServer?: string } {
  return { kubeConfig: kubeconfig, ...(apiServer === '' ? {} : { apiServer }) };
}
