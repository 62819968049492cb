// Three projects: unit (pure, no root), sim (the IPAM core under seeded faults), netns (root; run inside throw-away
// namespaces by test/support/run-tests.ts, one file at a time because they share one kernel).
import { availableParallelism } from 'node:os';

import type { ViteUserConfig } from 'vitest/config';

const root = new URL('..', import.meta.url).pathname;

const config: ViteUserConfig = {
  root,
  test: {
    // vitest would leave one core idle.
    maxWorkers: availableParallelism(),
    projects: [
      { root, test: { name: 'unit', include: ['test/unit/**/*.test.ts'], environment: 'node', testTimeout: 30_000 } },
      { root, test: { name: 'sim', include: ['test/sim/**/*.test.ts'], environment: 'node', testTimeout: 60_000 } },
      {
        root,
        test: {
          name: 'netns',
          include: ['test/netns/**/*.test.ts'],
          environment: 'node',
          pool: 'forks',
          fileParallelism: false,
          testTimeout: 90_000,
          hookTimeout: 90_000,
        },
      },
      {
        root,
        test: {
          name: 'runtimes',
          include: ['test/runtimes/**/*.test.ts'],
          environment: 'node',
          pool: 'forks',
          fileParallelism: false,
          testTimeout: 120_000,
          hookTimeout: 120_000,
          env: { LAB_OF_WEFT_DIR: '/run/weft-runtimes' },
        },
      },
    ],
  },
};

export default config;
