// The projects: unit (pure, no root), sim (the IPAM core under seeded faults), netns (root; run inside throw-away namespaces by
// test/support/run-tests.ts), and, each by a command of its own, runtimes (container runtimes) and vm (the stock kernel).
import { availableParallelism } from 'node:os';

import type { ViteUserConfig } from 'vitest/config';

const root = new URL('..', import.meta.url).pathname;

/** What is polled for comes soon, or on a busy machine later: vitest's second is too little. */
const expect = { poll: { timeout: 10_000 } };

const config: ViteUserConfig = {
  root,
  test: {
    // vitest would leave one core idle.
    maxWorkers: availableParallelism(),
    projects: [
      {
        root,
        test: {
          name: 'unit',
          include: ['test/unit/**/*.test.ts'],
          environment: 'node',
          testTimeout: 30_000,
          expect,
          // A process for each of 76 files is a quarter of what they cost; and what one leaves running, others see.
          isolate: false,
        },
      },
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
          expect,
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
      // One machine for the whole file; its beginning takes as long as the machine runs.
      { root, test: { name: 'vm', include: ['test/vm/**/*.test.ts'], environment: 'node', pool: 'forks' } },
    ],
  },
};

export default config;
