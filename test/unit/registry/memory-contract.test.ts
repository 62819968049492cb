// The contract suite against the memory registry, so that what is tested over it holds over the real engines.

import { MemoryRegistry } from '#test/support/memory-registry.ts';
import { registryContract } from '#test/support/registry-contract.ts';

registryContract(
  'memory',
  async () => {
    const memory = new MemoryRegistry();
    return { open: async () => memory.client(), [Symbol.asyncDispose]: async () => undefined };
  },
  { watchMs: 300 },
);
