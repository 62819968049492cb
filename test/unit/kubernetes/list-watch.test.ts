// How a collection is followed over a server that pages, expires, cuts connections, talks nonsense and rotates tokens.

import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openKubeApi, type KubeApi } from '#agent/kubernetes/api.ts';
import { followCollection, listAll, type CollectionEvent } from '#agent/kubernetes/list-watch.ts';
import { sendJson, sendLine, startFakeApi, type FakeApi } from '#test/support/fake-api.ts';
import { until } from '#test/support/registry-contract.ts';

const path = '/apis/weft.network/v1alpha1/peers';
const signal = new AbortController().signal;
let fake: FakeApi;
let api: KubeApi;

// The Kubernetes client takes its time to load; that is not what the tests measure.
beforeAll(() => import('#agent/kubernetes/credentials.ts'), 60_000);
beforeEach(async () => {
  fake = await startFakeApi();
  api = openKubeApi({ kubeConfig: fake.kubeConfig });
});
afterEach(async () => {
  api.close();
  await fake[Symbol.asyncDispose]();
});

function object(name: string, resourceVersion: string): object {
  return { metadata: { name, uid: `uid-${name}`, resourceVersion } };
}

function page(names: readonly string[], resourceVersion: string, next = ''): object {
  return { metadata: { resourceVersion, continue: next }, items: names.map((name) => object(name, '1')) };
}

/** Follows in the background; `seen` is what came, in short words. */
function follow(): { readonly seen: string[]; readonly troubles: string[]; stop(): Promise<void> } {
  const stop = new AbortController();
  const seen: string[] = [];
  const troubles: string[] = [];
  const onTrouble = (error: Error): void => void troubles.push(error.message);
  const done = (async () => {
    for await (const event of followCollection(api, path, {}, onTrouble, stop.signal)) seen.push(words(event));
  })();
  return {
    seen,
    troubles,
    stop: async () => {
      stop.abort();
      await done;
    },
  };
}

function words(event: CollectionEvent): string {
  if (event.kind === 'listed') return `listed ${event.objects.map(({ metadata }) => metadata.name).join(' ')}`;
  return `${event.kind} ${event.object.metadata.name}@${event.object.metadata.resourceVersion}`;
}

describe('listing', { timeout: 30_000 }, () => {
  it('goes on page by page and begins again when the pages expire', async () => {
    let expired = false;
    fake.answer = ({ query }, response) => {
      const token = query.get('continue') ?? '';
      expect(query.get('limit')).toBe('500');
      if (token === '') sendJson(response, 200, page(['a', 'b'], '7', 'second'));
      else if (!expired) {
        expired = true;
        sendJson(response, 410, { kind: 'Status', reason: 'Expired', message: 'too old' });
      } else sendJson(response, 200, page(['c'], '8'));
    };
    const listed = await listAll(api, path, {}, signal);
    expect(listed.objects.map(({ metadata }) => metadata.name)).toEqual(['a', 'b', 'c']);
    expect(listed.resourceVersion).toBe('8');
    expect(fake.asked).toHaveLength(4);
  });

  it('reports what the server said', async () => {
    fake.answer = (_asked, response) => sendJson(response, 403, { message: 'peers is forbidden' });
    await expect(listAll(api, path, {}, signal)).rejects.toMatchObject({
      kind: 'registry',
      message: expect.stringContaining('peers is forbidden'),
    });
  });
});

describe('following', { timeout: 30_000 }, () => {
  it('resumes at the last bookmark after the connection was cut, and tells nothing twice', async () => {
    let watches = 0;
    fake.answer = ({ query }, response) => {
      if (query.get('watch') === null) return sendJson(response, 200, page(['a'], '10'));
      watches += 1;
      if (watches === 1) {
        expect(query.get('resourceVersion')).toBe('10');
        sendLine(response, 'ADDED', object('b', '11'));
        sendLine(response, 'BOOKMARK', object('', '50'));
        setTimeout(() => fake.cut(), 50);
      } else {
        expect(query.get('resourceVersion')).toBe('50');
        sendLine(response, 'DELETED', object('b', '51'));
      }
      return undefined;
    };
    const following = follow();
    await until(() => following.seen.length === 3, 'three events', 5000);
    await following.stop();
    expect(following.seen).toEqual(['listed a', 'changed b@11', 'deleted b@51']);
    expect(fake.asked.filter(({ query }) => query.get('watch') === null)).toHaveLength(1);
  });

  it.for([
    ['as a status', (response: Parameters<FakeApi['answer']>[1]) => sendJson(response, 410, { code: 410 })],
    ['as an event', (response: Parameters<FakeApi['answer']>[1]) => sendLine(response, 'ERROR', { code: 410 })],
  ] as const)('lists again when the version has expired, told %s', async ([, expire]) => {
    let lists = 0;
    fake.answer = ({ query }, response) => {
      if (query.get('watch') === null) {
        lists += 1;
        return sendJson(response, 200, page(lists === 1 ? ['a', 'b'] : ['b'], String(lists * 10)));
      }
      if (query.get('resourceVersion') === '10') return expire(response);
      return sendLine(response, 'MODIFIED', object('b', '21'));
    };
    const following = follow();
    await until(() => following.seen.length === 3, 'three events', 5000);
    await following.stop();
    expect(following.seen).toEqual(['listed a b', 'listed b', 'changed b@21']);
  });

  it('outlives nonsense, errors and silence, waiting longer each time', async () => {
    const times: number[] = [];
    fake.answer = ({ query }, response) => {
      if (query.get('watch') === null) return sendJson(response, 200, page(['a'], '10'));
      times.push(performance.now());
      if (times.length === 1) return void response.writeHead(200).end('{"type":"ADDED","object":{"meta\n');
      if (times.length === 2) return sendJson(response, 500, { message: 'etcd is away' });
      if (times.length === 3) return void response.writeHead(503, { 'content-type': 'text/plain' }).end('busy');
      return sendLine(response, 'ADDED', object('b', '12'));
    };
    const following = follow();
    await until(() => following.seen.includes('changed b@12'), 'the event', 10_000);
    await following.stop();
    expect(following.troubles.join('\n')).toMatch(/etcd is away[^]*busy/);
    const waits = times.slice(1).map((at, index) => at - (times[index] as number));
    // The longest of a wait that does not grow. Not compared with the first as measured, to which a busy machine adds.
    expect(waits[2]).toBeGreaterThan(300);
  });
});

describe('requests', { timeout: 30_000 }, () => {
  it('takes the token that is on disk when the one in use has expired', async () => {
    fake.answer = ({ authorization }, response) =>
      authorization === 'Bearer second-token'
        ? sendJson(response, 200, { ok: true })
        : sendJson(response, 401, { message: 'Unauthorized' });
    expect(await api.call({ method: 'GET', path }, signal)).toMatchObject({ status: 401 });
    await fake.writeKubeConfig('second-token');
    expect(await api.call({ method: 'GET', path }, signal)).toMatchObject({ status: 200 });
  });

  it('sends again what the server was too busy for, when it says so', async () => {
    let refusals = 2;
    fake.answer = (_asked, response) => {
      refusals -= 1;
      if (refusals >= 0) sendJson(response, 429, { message: 'busy' }, { 'retry-after': '0' });
      else sendJson(response, 201, object('a', '1'));
    };
    expect(await api.call({ method: 'POST', path, body: {} }, signal)).toMatchObject({ status: 201 });
    expect(fake.asked).toHaveLength(3);
  });

  it('gives up with its signal while the server is silent, and says what it was doing', async () => {
    fake.answer = () => undefined;
    await expect(api.call({ method: 'GET', path }, AbortSignal.timeout(100))).rejects.toThrow(/GET .*peers/);
  });

  it('keeps its connection from one request to the next', async () => {
    const ports = new Set<number | undefined>();
    fake.answer = (_asked, response) => {
      ports.add(response.socket?.remotePort);
      sendJson(response, 200, {});
    };
    for (let at = 0; at < 5; at += 1) await api.call({ method: 'GET', path }, signal);
    expect(ports.size).toBe(1);
  });

  it('says that credentials are missing, by name', async () => {
    const missing = openKubeApi({ kubeConfig: `${fake.directory}/nowhere` });
    await expect(missing.call({ method: 'GET', path }, signal)).rejects.toMatchObject({
      kind: 'invalidSetting',
      message: expect.stringContaining('nowhere'),
    });
  });
});
