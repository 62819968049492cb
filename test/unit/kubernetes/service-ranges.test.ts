// Which addresses are Services': told by ServiceCIDR objects, else guessed from the Service `kubernetes`.
import { afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { openKubeApi, type KubeApi } from '#agent/kubernetes/api.ts';
import { serviceRanges } from '#agent/kubernetes/service-ranges.ts';
import { formatCidr } from '#ipam-peer/cidr.ts';
import { sendJson, startFakeApi, type FakeApi } from '#test/support/fake-api.ts';

const signal = new AbortController().signal;
let fake: FakeApi;
let api: KubeApi;

beforeAll(() => import('#agent/kubernetes/credentials.ts'), 60_000);
beforeEach(async () => {
  fake = await startFakeApi();
  api = openKubeApi({ kubeConfig: fake.kubeConfig });
});
afterEach(async () => {
  api.close();
  await fake[Symbol.asyncDispose]();
});

/** Answers by path; anything else is 404. */
function serve(answers: Readonly<Record<string, readonly [number, unknown]>>): void {
  fake.answer = ({ path }, response) => {
    const [status, body] = answers[path] ?? [404, { kind: 'Status', reason: 'NotFound' }];
    sendJson(response, status, body);
  };
}

const cidrsPath = '/apis/networking.k8s.io/v1/servicecidrs';
const servicePath = '/api/v1/namespaces/default/services/kubernetes';

async function told(): Promise<readonly string[]> {
  return (await serviceRanges(api, signal)).map(({ cidr }) => formatCidr(cidr));
}

describe('service ranges', () => {
  it('are those of every ServiceCIDR', async () => {
    const items = [
      { metadata: { name: 'kubernetes' }, spec: { cidrs: ['10.43.0.0/16', 'fd00:43::/112'] } },
      { metadata: { name: 'more' }, spec: { cidrs: ['10.96.0.0/20', 'nonsense'] } },
      { metadata: { name: 'empty' } },
    ];
    serve({ [cidrsPath]: [200, { items }] });
    expect(await told()).toEqual(['10.43.0.0/16', 'fd00:43::/112', '10.96.0.0/20']);
    expect((await serviceRanges(api, signal))[0]?.by).toBe('the service range of ServiceCIDR kubernetes');
  });

  it.for([[], null, [{ metadata: { name: 'kubernetes' }, spec: { cidrs: null } }]])(
    'are guessed while no ServiceCIDR names one: %j',
    async (items) => {
      serve({ [cidrsPath]: [200, { items }], [servicePath]: [200, { spec: { clusterIPs: ['10.43.0.1'] } }] });
      expect(await told()).toEqual(['10.43.0.0/16']);
    },
  );

  it.for([
    ['10.43.0.1', '10.43.0.0/16'],
    ['10.96.0.1', '10.96.0.0/12'],
    ['10.32.0.1', '10.32.0.0/12'],
    ['172.20.128.1', '172.20.128.0/17'],
    ['fd00:43::1', 'fd00:43::/108'],
  ])('are guessed from the address %s of the first Service', async ([address, range]) => {
    for (const refusal of [404, 403]) {
      serve({
        [cidrsPath]: [refusal, { kind: 'Status' }],
        [servicePath]: [200, { spec: { clusterIP: address, clusterIPs: [address] } }],
      });
      expect(await told()).toEqual([range]);
    }
    expect((await serviceRanges(api, signal))[0]?.toldBy).toBeDefined();
  });

  it('are not taken for none when the API server does not tell', async () => {
    serve({ [cidrsPath]: [500, { message: 'etcd is away' }] });
    await expect(told()).rejects.toMatchObject({ kind: 'registry', message: expect.stringMatching(/etcd/) as string });
    serve({ [cidrsPath]: [404, {}] });
    await expect(told()).rejects.toMatchObject({ kind: 'registry' });
  });
});
