// Pods and hosts reach each other, by the kernel's own words.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

import { Lab, ping } from './lab.ts';
import type { Pod } from './lab.ts';

describe('three hosts, two pods each', () => {
  let lab: Lab;
  const pods: Pod[] = [];

  beforeAll(async () => {
    lab = await Lab.create(3);
    for (const host of lab.hosts) pods.push(await host.addPod(), await host.addPod());
  });
  afterAll(async () => lab[Symbol.asyncDispose]());

  it('every pod reaches every pod', async () => {
    for (const from of pods) for (const to of pods) await ping(from.netns, to.lease.addresses[0] ?? '');
  });
});
