// More notifications than the socket holds: the kernel says ENOBUFS, and everything is read anew. What somebody deleted in that storm
// is back although nobody told of it, and no comparison by the clock is due.
import { afterAll, beforeAll, expect, it } from 'vitest';

import { Lab, ping, until } from './lab.ts';

let lab: Lab;
const reasons: unknown[] = [];

beforeAll(async () => {
  lab = await Lab.create(2, {
    settings: { comparePeriodMs: 600_000 },
    // The kernel makes it its smallest: two or three notifications.
    notificationBufferBytes: 1,
    log: (fields, message) => {
      if (message === 'kernel changed, comparing') reasons.push((fields as { readonly reason: unknown }).reason);
    },
  });
});
afterAll(async () => lab[Symbol.asyncDispose]());

it('an overrun of notifications ends in a comparison that mends what was lost', async () => {
  const [host, other] = [lab.host(0), lab.host(1)];
  const [near, far] = [await host.addPod(), await other.addPod()];
  await until('the second round is done', async () => host.datapath.status().reconciles > 1);
  const routes = (): Promise<string> => host.netns.exec(['ip', 'route', 'show', 'proto', '87']);
  const before = await routes();
  expect(before).toContain('10.40.0.0/14');
  // One process, one batch: the listening thread gets no turn in between. Ours goes in the middle, and 500 more are behind it.
  const storm = Array.from({ length: 1000 }, (_, i) => `route add unreachable 172.16.${i >> 8}.${i & 255} metric 9`);
  storm.splice(500, 0, 'route del 10.40.0.0/14 proto 87');
  let storms = 0;
  await until('notifications were lost', async () => {
    storms++;
    await host.netns
      .exec(['sh', '-c', `printf '%s\n' "$1" | ip -force -batch -`, 'sh', storm.join('\n')])
      .catch(() => '');
    await host.netns.exec(['ip', 'route', 'flush', 'metric', '9']);
    return reasons.includes('notifications were lost');
  });
  await until('the routes are as before', async () => (await routes()) === before);
  await ping(near.netns, far.lease.addresses[0] ?? '');
  expect(storms).toBeGreaterThan(0);
  expect(host.datapath.status()).toMatchObject({ ready: true, findings: [] });
});
