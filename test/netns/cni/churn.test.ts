// Pods that come and go 32 at once, three times, while the agent is killed in the middle of the ADDs and in the middle of the DELs: no
// address twice, nothing left behind, no error that a retry does not heal. CHURN_PODS sets how many (the full run: 500).

import { afterAll, beforeAll, expect, test } from 'vitest';

import type { AgentHost } from '#test/support/agent-host.ts';
import { createCniHost } from '#test/support/cni-host.ts';
import { kernelDump } from '#test/support/kernel-dump.ts';
import { TestNetns } from '#test/support/netns.ts';

const pods = Number(process.env['CHURN_PODS'] ?? 64);
const atOnce = 32;
const rounds = 3;
/** As a runtime: what fails is undone and tried again. */
const attempts = 5;

let host: AgentHost;
let hostNetns: TestNetns;
const namespaces: TestNetns[] = [];

beforeAll(async () => {
  ({ host, hostNetns } = await createCniHost());
  for (let at = 0; at < pods; at++) namespaces.push(await TestNetns.create('pod'));
}, 300_000);

afterAll(async () => {
  for (const one of namespaces) await one[Symbol.asyncDispose]();
  await host[Symbol.asyncDispose]();
}, 300_000);

/** Every fourth pod has a host port, every eighth limits. */
function confOf(pod: number): Readonly<Record<string, unknown>> {
  const portMappings = [{ hostPort: 20_000 + pod, containerPort: 80, protocol: pod % 8 === 0 ? 'udp' : 'tcp' }];
  const bandwidth = { ingressRate: 8_000_000, egressRate: 8_000_000 };
  if (pod % 4 !== 0) return {};
  return { runtimeConfig: { portMappings, ...(pod % 8 === 0 ? { bandwidth } : {}) } };
}

/** The pod's address once an attempt succeeds. */
async function add(pod: number): Promise<string> {
  const netns = namespaces[pod]?.path ?? '';
  const said: string[] = [];
  for (let attempt = 0; attempt < attempts; attempt++) {
    const run = await host.cni('ADD', { netns, conf: confOf(pod) });
    if (run.code === 0) return (run.json as { ips: { address: string }[] }).ips[0]?.address ?? '';
    said.push(run.stdout);
    await del(pod);
  }
  throw new Error(`pod ${pod} did not start in ${attempts} attempts: ${said.join('; ')}`);
}

async function del(pod: number): Promise<void> {
  const run = await host.cni('DEL', { netns: namespaces[pod]?.path ?? '', conf: confOf(pod) });
  if (run.code !== 0) throw new Error(`DEL of pod ${pod} was refused: ${run.stdout}`);
}

/** Does `work` for every pod, 32 at once; when half of them are done the agent is killed and started again. */
async function forAll<Result>(work: (pod: number) => Promise<Result>): Promise<readonly Result[]> {
  const results: Result[] = [];
  let next = 0;
  let done = 0;
  const half = Promise.withResolvers<void>();
  const worker = async (): Promise<void> => {
    for (let pod = next++; pod < pods; pod = next++) {
      results[pod] = await work(pod);
      if (++done * 2 >= pods) half.resolve();
    }
  };
  const crash = half.promise.then(async () => {
    await host.stop('SIGKILL');
    await host.start();
  });
  await Promise.all([...Array.from({ length: atOnce }, worker), crash]);
  return results;
}

test(`${pods} pods, ${rounds} times`, async () => {
  const before = await kernelDump(hostNetns);
  for (let round = 0; round < rounds; round++) {
    const addresses = await forAll(add);
    expect(new Set(addresses).size).toBe(pods);
    await expect.poll(() => host.leasedAddresses(), { timeout: 60_000 }).toBe(pods);
    await forAll(del);
    await expect.poll(() => host.leasedAddresses(), { timeout: 60_000 }).toBe(0);
    await expect.poll(() => kernelDump(hostNetns), { timeout: 60_000 }).toEqual(before);
  }
}, 900_000);
