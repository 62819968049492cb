// An agent to which nothing happens sleeps. Wake-ups are counted, not CPU time: they are the same on a loaded machine.
import { setTimeout as sleep } from 'node:timers/promises';

import { afterAll, beforeAll, expect, it } from 'vitest';

import { AgentHost } from '#test/support/agent-host.ts';
import { TestNetns } from '#test/support/netns.ts';
import { wakeUpsOf } from '#test/support/wake-ups.ts';

/** Its threads are woken 2.5 to 5.5 times a second, where no comparison is due; that takes some hundred. */
const mostPerSecond = 7;
const windowMs = 5000;

let host: AgentHost;
const stack = new AsyncDisposableStack();

beforeAll(async () => {
  host = stack.use(await AgentHost.create('own netns'));
  await host.start();
  for (let pod = 0; pod < 3; pod++) {
    const netns = stack.use(await TestNetns.create('pod'));
    expect(await host.cni('ADD', { netns: netns.path })).toMatchObject({ code: 0 });
  }
});
afterAll(async () => stack.disposeAsync());

it(`wakes up less than ${mostPerSecond} times a second`, { timeout: 180_000 }, async () => {
  const rates: number[] = [];
  // The start ends after some seconds, its last comparison after 20.
  for (let window = 0; window < 24; window++) {
    const before = await wakeUpsOf(host.pid ?? 0);
    const began = performance.now();
    await sleep(windowMs);
    rates.push(((await wakeUpsOf(host.pid ?? 0)) - before) / ((performance.now() - began) / 1000));
    // Two in a row: what comes every ten seconds is in one of them.
    if (rates.length > 1 && rates.slice(-2).every((rate) => rate < mostPerSecond)) return;
  }
  expect.unreachable(`wake-ups a second: ${rates.map((rate) => rate.toFixed(1)).join(' ')}`);
});
