// Someone in a network namespace who serves TCP and UDP ports and asks others: `await talker.ask({ … })` tells who answered and
// which source address the answerer saw. One Node process each, so that a test can ask hundreds of times.

import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface Serve {
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
  readonly name: string;
}

export interface Ask {
  readonly protocol: 'tcp' | 'udp';
  readonly address: string;
  readonly port: number;
  /** UDP: questions from one local port are one flow. */
  readonly localPort?: number;
  readonly waitMs: number;
}

export interface Answer {
  readonly name: string;
  /** Source address as the answerer saw it. */
  readonly source: string;
}

export type ToTalker =
  | { readonly id: number; readonly serve: Serve; readonly ask?: undefined }
  | { readonly id: number; readonly serve?: undefined; readonly ask: Ask };

interface FromTalker {
  readonly id: number;
  readonly answer?: Answer;
  readonly error?: string;
}

const program = fileURLToPath(new URL('talker-child.ts', import.meta.url));
/** Long enough for a loaded machine; a test that expects silence says less. */
const defaultWaitMs = 5000;

export class Talker implements AsyncDisposable {
  readonly #child: ChildProcess;
  readonly #waiting = new Map<number, (message: FromTalker) => void>();
  #next = 1;

  constructor(netnsPath: string) {
    this.#child = spawn('nsenter', [`--net=${netnsPath}`, '--', process.execPath, program], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    });
    this.#child.on('message', (message: FromTalker) => {
      this.#waiting.get(message.id)?.(message);
      this.#waiting.delete(message.id);
    });
    this.#child.on('exit', () => {
      for (const [id, settle] of this.#waiting) settle({ id, error: 'the talker ended' });
    });
  }

  /** Serves on every address of the namespace; resolves when it listens. */
  async serve(protocol: Serve['protocol'], port: number, name: string): Promise<void> {
    await this.#tell({ serve: { protocol, port, name } });
  }

  /** Undefined where nobody answers. */
  async ask(question: Omit<Ask, 'waitMs'> & { readonly waitMs?: number }): Promise<Answer | undefined> {
    return await this.#tell({ ask: { waitMs: defaultWaitMs, ...question } });
  }

  async #tell(message: { readonly serve: Serve } | { readonly ask: Ask }): Promise<Answer | undefined> {
    const id = this.#next++;
    const reply = await new Promise<FromTalker>((resolve) => {
      this.#waiting.set(id, resolve);
      this.#child.send({ id, ...message });
    });
    if (reply.error !== undefined) throw new Error(reply.error);
    return reply.answer;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode !== null) return;
    const gone = new Promise((resolve) => this.#child.once('exit', resolve));
    this.#child.kill('SIGKILL');
    await gone;
  }
}
