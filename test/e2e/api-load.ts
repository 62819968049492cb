// What an idle agent asks of the API server: `node test/e2e/api-load.ts [MINUTES]` runs the real discovery, registry and IPAM of three
// nodes with their default timing against a real API server, and counts their requests. docs/operate.md has the figures.
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';

import { startKubernetesDiscovery } from '#agent/discovery/kubernetes.ts';
import { openKubeApi, type KubeApi } from '#agent/kubernetes/api.ts';
import { openKubernetesRegistry } from '#agent/registry/kubernetes/kubernetes-registry.ts';
import { startIpam } from '#agent/runtime/start.ts';
import { addNodeAgent } from './support/node-agents.ts';
import { startGuardedServer } from './support/privilege-world.ts';

const minutes = Number(process.argv[2] ?? 10);
const nodes = 3;
const silent = (): void => undefined;
const log = { trace: silent, debug: silent, info: silent, warn: console.log, error: console.log } as never;
const counts = new Map<string, number>();

/** A client that writes down what it is asked: `GET peers`, `WATCH nodes`. */
function counting(api: KubeApi): KubeApi {
  const count = (method: string, path: string): void => {
    const key = `${method} ${path.split('/').findLast((part) => /^(?:nodes|peers|universes|leases|services|servicecidrs)$/.test(part)) ?? path}`;
    counts.set(key, (counts.get(key) ?? 0) + 1);
  };
  return {
    call: async (call, signal) => {
      count(call.method, call.path);
      return await api.call(call, signal);
    },
    lines: (call, idleMs, signal) => {
      count('WATCH', call.path);
      return api.lines(call, idleMs, signal);
    },
    close: () => api.close(),
  };
}

await using server = await startGuardedServer();
await using stack = new AsyncDisposableStack();
for (let index = 1; index <= nodes; index += 1) {
  const agent = await addNodeAgent(server, `n${index}`);
  const api = counting(openKubeApi({ kubeConfig: agent.kubeConfig }));
  const stateDir = join(server.directory, `state-${agent.node}`);
  const discovery = await startKubernetesDiscovery({ nodeName: agent.node, stateDir, api, log });
  const registry = await openKubernetesRegistry({ namespace: 'weft', api, log });
  const ipam = await startIpam({
    registry,
    statePath: join(stateDir, 'state.db'),
    node: discovery.self,
    universe: { name: 'default', ranges: ['10.32.0.0/12'], reserved: [] },
    ...(discovery.nodeExists && { nodeExists: discovery.nodeExists.bind(discovery) }),
    log,
  });
  const stopAttending = discovery.attend?.(ipam);
  stack.defer(async () => {
    stopAttending?.();
    await ipam.close();
    await registry.close();
    await discovery.close();
    api.close();
  });
  await ipam.whenReady(AbortSignal.timeout(60_000));
}
await sleep(60_000);
counts.clear();
await sleep(minutes * 60_000);
const perHour = (count: number): string => ((count / nodes / minutes) * 60).toFixed(0);
let sum = 0;
for (const [key, count] of [...counts].toSorted(([one], [other]) => one.localeCompare(other))) {
  sum += count;
  console.log(`${key.padEnd(18)} ${perHour(count)} per node and hour`);
}
console.log(`${'all'.padEnd(18)} ${perHour(sum)} per node and hour (${nodes} nodes, ${minutes} min)`);
