// The specs that run against the booted cluster, one file after another in the order of their names; test/e2e/inside.ts starts them.
import { BaseSequencer, type TestSpecification } from 'vitest/node';
import type { ViteUserConfig } from 'vitest/config';

const root = new URL('../..', import.meta.url).pathname;

class ByName extends BaseSequencer {
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    return files.toSorted((a, b) => a.moduleId.localeCompare(b.moduleId));
  }
}

const common = {
  environment: 'node',
  pool: 'forks',
  fileParallelism: false,
  testTimeout: 240_000,
  hookTimeout: 180_000,
} as const;

const config: ViteUserConfig = {
  root,
  test: {
    fileParallelism: false,
    sequence: { sequencer: ByName },
    projects: [
      { root, test: { ...common, name: 'registry', include: ['test/e2e/*.test.ts'] } },
      {
        root,
        test: {
          ...common,
          name: 'cluster',
          include: ['test/e2e/specs/*.test.ts'],
          setupFiles: ['test/e2e/support/matchers.ts'],
        },
      },
    ],
  },
};

export default config;
