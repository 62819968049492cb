// The contract suite against the `peers` engine: one voter, three voters asked by voters, by clients, and with one voter down.

import { createPeersCluster } from '#test/support/peers-cluster.ts';
import { registryContract, type RegistryFixture } from '#test/support/registry-contract.ts';

async function peersFixture(voterCount: number, up: number, from: readonly [string, string]): Promise<RegistryFixture> {
  const cluster = await createPeersCluster(voterCount);
  const running = new Map(
    await Promise.all(cluster.voters.slice(0, up).map(async ({ name }) => [name, await cluster.open(name)] as const)),
  );
  return {
    open: async (nodeName) => {
      const name = nodeName === 'host1' ? from[0] : from[1];
      const registry = running.get(name);
      // Voters outlive the suite's clients: they serve each other until the fixture ends.
      return registry === undefined ? cluster.open(name) : { ...registry, close: async () => undefined };
    },
    [Symbol.asyncDispose]: async () => {
      await Promise.all([...running.values()].map((registry) => registry.close()));
      await cluster[Symbol.asyncDispose]();
    },
  };
}

registryContract('peers, one voter', () => peersFixture(1, 1, ['host1', 'client1']), { watchMs: 1500 });
registryContract('peers, three voters', () => peersFixture(3, 3, ['host1', 'host2']), { watchMs: 1500 });
registryContract('peers, three voters asked by clients', () => peersFixture(3, 3, ['client1', 'client2']), {
  watchMs: 1500,
});
registryContract('peers, one of three voters down', () => peersFixture(3, 2, ['host1', 'client1']), { watchMs: 1500 });
