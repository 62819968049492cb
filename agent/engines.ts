// The two outside worlds, Kubernetes and static hosts, differ only here: which discovery and which registry the settings ask for.
// Each engine is loaded only when it is used: the Kubernetes client alone costs half of the agent's memory.

import { join } from 'node:path';
import type { Config } from '#agent/config.ts';
import type { Discovery } from '#agent/discovery/discovery.ts';
import { WeftError } from '#agent/errors.ts';
import type { Logger } from '#agent/observe/log.ts';
import type { Registry } from '#agent/registry/registry.ts';

/** Weft's own namespace in deploy/base: its Leases live there. */
const kubernetesNamespace = 'weft';

export async function openRegistry(config: Config, log: Logger): Promise<Registry> {
  if (config.registry === 'kubernetes') {
    const { openKubernetesRegistry } = await import('#agent/registry/kubernetes/kubernetes-registry.ts');
    return openKubernetesRegistry({ namespace: kubernetesNamespace, kubeConfig: config.kubeconfig, log });
  }
  const { openPeersRegistry } = await import('#agent/registry/peers/peers-registry.ts');
  const voters = config.voters.map((name) => {
    const address = config.nodes.find((node) => node.name === name)?.addresses[0];
    if (address === undefined) throw new WeftError('invalidSetting', `voters: ${name} has no address under nodes`);
    return { name, address, port: config.peersPort };
  });
  return openPeersRegistry({
    self: config.nodeName,
    voters,
    tls: { ca: config.tlsCa, cert: config.tlsCert, key: config.tlsKey },
    statePath: join(config.stateDir, 'voter.db'),
    log,
  });
}

export async function openDiscovery(config: Config, log: Logger): Promise<Discovery> {
  if (config.discovery === 'kubernetes') {
    const { startKubernetesDiscovery } = await import('#agent/discovery/kubernetes.ts');
    const { nodeName, stateDir, kubeconfig: kubeConfig } = config;
    return startKubernetesDiscovery({ nodeName, stateDir, kubeConfig, log });
  }
  const { startStaticDiscovery } = await import('#agent/tmp-static.ts');
  return startStaticDiscovery({ nodeName: config.nodeName, nodes: config.nodes, stateDir: config.stateDir, log });
}
