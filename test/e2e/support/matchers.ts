// Sentences that the specs prove: `await expect(client).toReach(web, { port: 80 })`. Each polls to a deadline.
import { expect } from 'vitest';

import { urlHost } from '../cluster/settings.ts';
import { ask, type Client } from './clients.ts';

export interface Target {
  /** A plain address or a DNS name. */
  readonly address: string;
  /** The pod that must answer, or one of several. */
  readonly name?: string;
}

export interface ReachOptions {
  readonly port: number;
  /** Names of the pods that may answer; by default the target's own name. */
  readonly answeredBy?: readonly string[];
  readonly withinMs?: number;
}

declare module 'vitest' {
  // oxlint-disable-next-line no-unused-vars -- must repeat vitest's own parameters
  interface Matchers<R extends void | Promise<void> = void | Promise<void>, T = unknown> {
    toReach(target: Target, options: ReachOptions): Promise<void>;
  }
}

expect.extend({
  async toReach(client: Client, target: Target, options: ReachOptions) {
    const url = `http://${urlHost(target.address)}:${options.port}/hostname`;
    const answer = (await ask(client, [url], options.withinMs))[url] ?? '';
    const wanted = options.answeredBy ?? [target.name ?? ''];
    return {
      pass: wanted.includes(answer),
      message: () => `${client.label} asked ${url}\n  expected ${wanted.join(' or ')}\n  answered ${answer}`,
    };
  },
});
