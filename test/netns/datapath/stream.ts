// Numbered streams between pods at 1 kHz (test/support/stream.c): whatever happens meanwhile, at the end every number must be there.
import { spawn, spawnSync } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import type { TestNetns } from '#test/support/netns.ts';

import { until } from './lab.ts';
import type { Pod } from './lab.ts';

export interface StreamEnd {
  readonly sent: number;
  readonly lost: number;
  /** TCP only; 0 for UDP. */
  readonly retransmitted: number;
  /** Longest silence between two numbers at the receiver. */
  readonly maxGapMs: number;
}

export interface Stream {
  /** Numbers received so far. */
  received(): Promise<number>;
  /** Ends the stream and waits for what is under way. */
  stop(): Promise<StreamEnd>;
}

let built: string | undefined;

function program(): string {
  if (built !== undefined) return built;
  const output = join(mkdtempSync(join(tmpdir(), 'weft-stream-')), 'stream');
  const source = fileURLToPath(new URL('../../support/stream.c', import.meta.url));
  const flags = ['-O2', '-Wall', '-Wextra', '-Werror'];
  const { status, stderr, error } = spawnSync(process.env['CC'] ?? 'cc', [...flags, source, '-o', output], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(`cannot build stream.c: ${stderr || String(error)}`);
  built = output;
  return output;
}

class End {
  readonly child: ChildProcess;
  readonly #lines: string[] = [];
  #wake: () => void = () => {};
  ended = false;

  constructor(netns: TestNetns, args: readonly string[]) {
    this.child = spawn('nsenter', [`--net=${netns.path}`, '--', program(), ...args], {
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    const { stdout } = this.child;
    if (!stdout) throw new Error('no pipe');
    createInterface({ input: stdout }).on('line', (line) => {
      this.#lines.push(line);
      this.#wake();
    });
    this.child.on('exit', () => {
      this.ended = true;
      this.#wake();
    });
    this.child.stdin?.on('error', () => {});
  }

  async line(): Promise<Record<string, number>> {
    while (this.#lines.length === 0) {
      if (this.ended) throw new Error('the stream ended before its time (its words are above)');
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    return JSON.parse(this.#lines.shift() ?? '') as Record<string, number>;
  }

  async ask(): Promise<Record<string, number>> {
    this.child.stdin?.write('?\n');
    return this.line();
  }

  async end(): Promise<void> {
    if (this.ended) return;
    this.child.kill('SIGKILL');
    await once(this.child, 'exit');
  }
}

let nextPort = 20_000;

async function stream(kind: 'udp' | 'tcp', from: TestNetns, to: TestNetns, address: string): Promise<Stream> {
  const port = String(nextPort++);
  const any = address.includes(':') ? '::' : '0.0.0.0';
  const sink = new End(to, [`${kind}-sink`, port, any]);
  await sink.line();
  const source = new End(from, [`${kind}-source`, address, port]);
  const received = async (): Promise<number> => (await sink.ask())['received'] ?? 0;
  try {
    await until(`${kind} stream to ${address}: first numbers`, async () => (await received()) > 3, 10_000);
  } catch (error) {
    await Promise.all([sink.end(), source.end()]);
    throw error;
  }
  return {
    received,
    async stop() {
      source.child.stdin?.end();
      const { sent = 0, retransmitted = 0 } = await source.line();
      await until('late numbers are in', async () => (await received()) >= sent, 5000).catch(() => undefined);
      const { received: got = 0, maxGapMs = 0 } = await sink.ask();
      await Promise.all([sink.end(), source.end()]);
      return { sent, lost: sent - got, retransmitted, maxGapMs };
    },
  };
}

const addressOf = (pod: Pod, at = 0): string => pod.lease.addresses[at] ?? '';

export const udpStream = async (from: Pod, to: Pod, at = 0): Promise<Stream> =>
  stream('udp', from.netns, to.netns, addressOf(to, at));

export const tcpStream = async (from: Pod, to: Pod, at = 0): Promise<Stream> =>
  stream('tcp', from.netns, to.netns, addressOf(to, at));
