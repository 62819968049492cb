// `weft range replace`: the steps name this cluster's own records; what cannot be a range is refused before anybody is asked.
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { rangeReplace } from '#agent/cli/range-replace.ts';
import { buildStatus } from '#agent/observe/status.ts';
import { sources, view } from '#test/unit/observe/fixture.ts';

let directory: string;
let statusListen: string;
const closing: (() => Promise<unknown>)[] = [];

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-range-'));
  const pool = { ...view, namespaces: [], availableAddresses: 1_000_000 };
  const pools = [
    { ...pool, name: 'default' },
    { ...pool, name: 'blue', ranges: ['10.64.0.0/16'], peers: [] },
  ];
  const status = buildStatus(sources({ ipam: () => ({ ...view, pools }) }), 0);
  const server = createServer((_, answer) => answer.end(JSON.stringify(status)));
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  closing.push(() => new Promise((resolve) => server.close(resolve)));
  statusListen = `127.0.0.1:${(server.address() as AddressInfo).port}`;
});
afterEach(async () => {
  for (const close of closing.splice(0)) await close();
  await rm(directory, { recursive: true });
});

async function run(settings: object, ...argv: readonly string[]): Promise<string> {
  const path = join(directory, 'config.json');
  await writeFile(path, JSON.stringify({ nodeName: 'host1', statusListen, ...settings }));
  return await rangeReplace([...argv, '--config', path], {});
}

test('in Kubernetes: the Universe, then the records of the default pool', async () => {
  const told = await run({}, '10.96.0.0/12');
  expect(told).toContain('The range of the default pool is 10.32.0.0/12; pods on host1 have 2 addresses of it.');
  expect(told).toContain('`kubectl weft range replace 10.96.0.0/12` does what follows');
  expect(told).toContain('"metadata":{"name":"default"},"spec":{"ranges":["10.96.0.0/12"]}');
  expect(told).toContain('kubectl delete peers.weft.network host1.00000001 host2.00000002 host3.00000003\n');
});

test('on plain hosts: every host, the voters between', async () => {
  const nodes = [{ name: 'host1', addresses: ['192.0.2.1'] }];
  const keys = { tlsCa: '/ca', tlsCert: '/cert', tlsKey: '/key' };
  const told = await run({ registry: 'peers', nodes, voters: ['host1'], ...keys }, '10.96.0.0/12', 'fd00:96::/48');
  expect(told).toMatch(
    /weft clean[^]*"ranges": \["10\.96\.0\.0\/12","fd00:96::\/48"\][^]*\(host1\): weft voters restore empty/,
  );
});

test.for([
  [['10.100.0.0/11'], /not an aligned CIDR block/],
  [['10.96.0.0/12', '10.97.0.0/16'], /ranges is not free of overlaps/],
  [['127.0.0.0/8'], /which is no pod's/],
  [['10.64.128.0/17'], /overlaps the pool blue, 10\.64\.0\.0\/16: choose others$/],
  [['10.32.0.0/11'], /overlaps the pool default, .*a range grows by a further pool/],
  [[], /Usage: weft range replace/],
] as const)('%j is refused', async ([ranges, reason]) => {
  await expect(run({}, ...ranges)).rejects.toThrow(reason);
});
