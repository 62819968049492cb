// Pods that come and go as a kubelet makes them: ADD, and after a failed one DEL and another sandbox; DEL until it is done. Keeps
// the book of who holds which address, in which an address that is given out while somebody has it is a violation.

import { randomBytes } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { slotNetns, type ChaosCluster } from '#test/chaos/cluster.ts';

export interface PodsReport {
  /** Pods that have come and gone. */
  readonly pods: number;
  /** ADDs that failed, and how they put it. */
  readonly failures: readonly string[];
  /** Addresses that two pods had at once. */
  readonly duplicates: readonly string[];
}

export interface PodsOptions {
  readonly cluster: ChaosCluster;
  /** Slots in all; each makes one pod after another on its host. */
  readonly slots: number;
  /** No further pod begins when this says so. */
  readonly enough: (pods: number) => boolean;
  readonly random: () => number;
  /** Longest that a pod stays. */
  readonly stayMs: number;
}

const pauseMs = 100;
/** A DEL, or an ADD, that does not succeed for so long will not any more. */
const giveUpAfterMs = 180_000;

export async function runPods(options: PodsOptions): Promise<PodsReport> {
  const book = new Book();
  await Promise.all(Array.from({ length: options.slots }, (_, slot) => runSlot(options, slot, book)));
  return { pods: book.gone, failures: book.failures, duplicates: book.duplicates };
}

class Book {
  readonly #held = new Map<string, string>();
  readonly failures: string[] = [];
  readonly duplicates: string[] = [];
  begun = 0;
  gone = 0;

  came(address: string, pod: string): void {
    const holder = this.#held.get(address);
    if (holder !== undefined) this.duplicates.push(`${address} of ${holder} was given to ${pod} too`);
    this.#held.set(address, pod);
  }

  went(address: string): void {
    this.#held.delete(address);
    this.gone += 1;
  }
}

async function runSlot({ cluster, enough, random, stayMs }: PodsOptions, slot: number, book: Book): Promise<void> {
  const at = slot % cluster.hosts.length;
  while (!enough(book.begun)) {
    book.begun += 1;
    const pod = `pod ${book.begun} on host${at + 1}`;
    const { address, containerId } = await addUntilDone(cluster, at, slot, pod, book);
    book.came(address, pod);
    await sleep(random() * stayMs);
    await delUntilDone(cluster, at, slot, containerId);
    await cluster.dropNetns(slot);
    book.went(address);
  }
}

async function addUntilDone(
  cluster: ChaosCluster,
  at: number,
  slot: number,
  pod: string,
  book: Book,
): Promise<{ readonly address: string; readonly containerId: string }> {
  const deadline = performance.now() + giveUpAfterMs;
  for (;;) {
    const containerId = randomBytes(32).toString('hex');
    await cluster.freshNetns(slot);
    const { code, stdout, stderr } = await callShim(cluster, at, slot, 'ADD', containerId);
    if (code === 0) {
      const result = JSON.parse(stdout) as { readonly ips?: readonly { readonly address: string }[] };
      const address = result.ips?.[0]?.address.split('/')[0];
      if (address === undefined) throw new Error(`${pod}: ADD gave no address: ${stdout}`);
      return { address, containerId };
    }
    const said = stdout.trim() || stderr.trim();
    book.failures.push(`${pod}: ${said}`);
    if (performance.now() > deadline) throw new Error(`${pod} does not start: ${said}\n${cluster.log(at)}`);
    await delUntilDone(cluster, at, slot, containerId);
    await sleep(pauseMs);
  }
}

async function delUntilDone(cluster: ChaosCluster, at: number, slot: number, containerId: string): Promise<void> {
  const deadline = performance.now() + giveUpAfterMs;
  for (;;) {
    const { code, stdout, stderr } = await callShim(cluster, at, slot, 'DEL', containerId);
    if (code === 0) return;
    if (performance.now() > deadline)
      throw new Error(`a DEL does not succeed: ${stdout} ${stderr}\n${cluster.log(at)}`);
    await sleep(pauseMs);
  }
}

async function callShim(
  cluster: ChaosCluster,
  at: number,
  slot: number,
  verb: 'ADD' | 'DEL',
  containerId: string,
): Promise<{ readonly code: number; readonly stdout: string; readonly stderr: string }> {
  const env = {
    CNI_COMMAND: verb,
    CNI_CONTAINERID: containerId,
    CNI_NETNS: `/run/netns/${slotNetns(slot)}`,
    CNI_IFNAME: 'eth0',
    CNI_PATH: '/opt/cni/bin',
    CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=chaos;K8S_POD_NAME=slot${slot};K8S_POD_INFRA_CONTAINER_ID=${containerId}`,
  };
  const stdin = JSON.stringify({ cniVersion: '1.0.0', name: 'weft', type: 'weft' });
  return cluster.run(at, ['/opt/cni/bin/weft'], { env, stdin });
}
