// When a finding becomes an Event, and when it does not; what the API server makes of it is in test/e2e/privilege.test.ts.
import { expect, test } from 'vitest';
import { tellFindings } from '#agent/discovery/node-events.ts';
import type { FindingName } from '#agent/findings.ts';
import type { KubeApi, KubeRequest } from '#agent/kubernetes/api.ts';
import { findingOf, type Finding } from '#agent/observe/findings.ts';

const found = (name: FindingName, subject: string, message = 'x'): Finding => findingOf({ name, subject, message });

interface Written {
  readonly metadata: { readonly name: string };
  readonly reason: string;
  readonly note: string;
}

/** Shows the looks one after another, then stops; returns what was written. */
async function eventsOf(
  looks: readonly (readonly Finding[])[],
  { status = () => 201, most = 10 }: { readonly status?: (count: number) => number; readonly most?: number } = {},
): Promise<readonly Written[]> {
  const written: Written[] = [];
  const api = {
    call: async ({ body }: KubeRequest) => {
      written.push(body as Written);
      return { status: status(written.length), body: {} };
    },
  } as unknown as KubeApi;
  const stop = new AbortController();
  let look = 0;
  const findings = (): readonly Finding[] => {
    if (look === looks.length) stop.abort();
    return looks[look++] ?? [];
  };
  const log = { debug: () => undefined };
  await tellFindings({ api, node: { nodeName: 'n1', nodeUid: 'u1' }, findings, log, everyMs: 1, most }, stop.signal);
  return written;
}

test('what is there in two looks is told once', async () => {
  const link = found('leftoverNetwork', 'flannel.1', 'a link of flannel');
  const [event, ...more] = await eventsOf([[link], [link], [link], [link]]);
  expect(more).toEqual([]);
  expect(event).toMatchObject({
    metadata: { name: expect.stringMatching(/^weft\.[0-9a-f]{16}$/) as string, namespace: 'default' },
    reason: 'LeftoverNetwork',
    type: 'Warning',
    note: expect.stringMatching(/^flannel\.1: a link of flannel .*docs\/leftovers\.md/) as string,
    regarding: { kind: 'Node', name: 'n1', uid: 'u1' },
  });
});

test('what comes and goes is not', async () => {
  const link = found('leftoverNetwork', 'flannel.1');
  expect(await eventsOf([[link], [], [link], []])).toEqual([]);
});

test('a message whose numbers change is the same finding; another subject is another', async () => {
  const looks = [1, 2, 3, 4].map((number) => [
    found('leftoverNetwork', 'weave', `seen ${number} times`),
    found('leftoverNetwork', 'cni0'),
  ]);
  const names = (await eventsOf(looks)).map(({ metadata }) => metadata.name);
  expect(names).toHaveLength(2);
  expect(new Set(names).size).toBe(2);
});

test('what is about peers is not told: thousands of nodes would say it at once', async () => {
  const peers = [found('peerUnreachable', 'n2'), found('overlayBlocked', 'n3')];
  expect(await eventsOf([peers, peers, peers])).toEqual([]);
});

test('one that the API server has already counts as told; one that it refuses is tried again', async () => {
  const link = [found('leftoverNetwork', 'flannel.1')];
  expect(await eventsOf([link, link, link, link], { status: () => 409 })).toHaveLength(1);
  const tries = await eventsOf([link, link, link, link], { status: (count) => (count < 3 ? 500 : 201) });
  expect(tries).toHaveLength(3);
});

test('many at once are told little by little', async () => {
  const many = Array.from({ length: 50 }, (_, index) => found('leftoverNetwork', `link${index}`));
  expect(await eventsOf([many, many, many, many], { most: 10 })).toHaveLength(10);
});

test('a long message is cut to what a note may hold', async () => {
  const long = [found('leftoverNetwork', 'x', 'é'.repeat(900))];
  const [event] = await eventsOf([long, long]);
  expect(Buffer.byteLength(event?.note ?? '')).toBeLessThanOrEqual(1024);
  expect(event?.note).toMatch(/é …$/);
});
