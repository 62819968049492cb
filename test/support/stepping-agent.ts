// The agent with a trap: it ends itself by SIGKILL after the n-th step, a step being one netlink request that writes, one nftables
// transaction or one commit of the store. Batches are taken apart, so that a death can also lie between two messages of one, which
// in production cannot be. A test tells `n` by the file that TEST_TRAP names (`<serial> <n>`); the steps since then are appended
// to the same name with `.steps`.

/* oxlint-disable typescript/unbound-method -- each is called with the object that it was taken from */
import { appendFileSync, readFileSync } from 'node:fs';
import { DatabaseSync } from 'node:sqlite';

import { runAgent } from '#agent/main.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { Nftables } from '#agent/netlink/nftables.ts';
import { NetlinkSocket } from '#agent/netlink/socket.ts';

const trap = process.env['TEST_TRAP'] ?? '';
let serial = '';
let count = 0;

function step(name: string): void {
  let text: string;
  try {
    text = readFileSync(trap, 'utf8');
  } catch {
    return;
  }
  const [current = '', last = ''] = text.split(' ');
  if (current !== serial) {
    serial = current;
    count = 0;
  }
  count += 1;
  appendFileSync(`${trap}.steps`, `${serial} ${count} ${name}\n`);
  if (count === Number(last)) process.kill(process.pid, 'SIGKILL');
}

const reads = /^(get|dump)/;
type Requests = readonly NetlinkRequest<unknown>[];

const socket = NetlinkSocket.prototype;
const { batch, batchAsync, transaction } = socket;
socket.batch = function batchByOnes(this: NetlinkSocket, requests: Requests) {
  return requests.flatMap((request) => {
    const replies = batch.call(this, [request]);
    if (!reads.test(request.name)) step(request.name);
    return replies;
  });
} as typeof batch;
socket.batchThenDump = function batchByOnesThenDump<Answer>(
  this: NetlinkSocket,
  requests: Requests,
  dump: NetlinkRequest<Answer>,
) {
  return { replies: this.batch(requests), dumped: this.dump(dump) };
};
socket.batchAsync = async function batchAsyncByOnes(this: NetlinkSocket, requests: Requests, signal?: AbortSignal) {
  const replies: unknown[] = [];
  for (const request of requests) {
    replies.push(...(await batchAsync.call(this, [request], signal)));
    if (!reads.test(request.name)) step(request.name);
  }
  return replies;
} as typeof batchAsync;
socket.transaction = function transactionAsStep(this: NetlinkSocket, requests: Requests) {
  transaction.call(this, requests);
  step(requests[0]?.name ?? 'transaction');
};

const { run } = Nftables.prototype;
Nftables.prototype.run = function runAsStep(this: Nftables, ...args: Parameters<typeof run>) {
  const output = run.apply(this, args);
  step('nftables');
  return output;
};

/** What ends a transaction of the lease store: a single lease is one by itself. */
const commits = /^COMMIT$|^INSERT OR REPLACE INTO leases /;
const { prepare } = DatabaseSync.prototype;
DatabaseSync.prototype.prepare = function prepareWithStep(this: DatabaseSync, sql: string) {
  const statement = prepare.call(this, sql);
  if (!commits.test(sql)) return statement;
  const execute = statement.run.bind(statement);
  statement.run = ((...values: Parameters<typeof execute>) => {
    const result = execute(...values);
    if (!this.isTransaction) step('store');
    return result;
  }) as typeof execute;
  return statement;
};

await runAgent(process.argv.slice(2), process.env);
