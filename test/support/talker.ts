// Someone in a network namespace who serves TCP and UDP ports and asks others: `await talker.ask({ … })` tells who answered and
// which source address the answerer saw. One Node process each, so that a test can ask hundreds of times.

import { type ChildProcess, spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

export interface Serve {
  readonly protocol: 'tcp' | 'udp';
  readonly port: number;
  readonly name: string;
  /** TCP: sends so many bytes instead of an answer. */
  readonly bytes?: number;
}

export interface Download {
  readonly address: string;
  readonly port: number;
}

export interface Downloaded {
  readonly bytes: number;
  /** From before the connection to the end of the data. */
  readonly ms: number;
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

export type Errand =
  | { readonly kind: 'serve'; readonly serve: Serve }
  | { readonly kind: 'ask'; readonly ask: Ask }
  | { readonly kind: 'download'; readonly download: Download };
export type ToTalker = Errand & { readonly id: number };

interface FromTalker {
  readonly id: number;
  readonly answer?: Answer | Downloaded;
  readonly error?: string;
}

const program = fileURLToPath(new URL('talker-child.ts', import.meta.url));
/** Long enough for a loaded machine; a test that expects silence says less. */
const defaultWaitMs = 20_000;

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
  async serve(protocol: Serve['protocol'], port: number, name: string, bytes?: number): Promise<void> {
    await this.#tell({ kind: 'serve', serve: { protocol, port, name, ...(bytes === undefined ? {} : { bytes }) } });
  }

  /** Undefined where nobody answers. */
  async ask(question: Omit<Ask, 'waitMs'> & { readonly waitMs?: number }): Promise<Answer | undefined> {
    const answer = await this.#tell({ kind: 'ask', ask: { waitMs: defaultWaitMs, ...question } });
    return answer as Answer | undefined;
  }

  /** Takes all that a server with `bytes` sends over TCP. */
  async download(from: Download): Promise<Downloaded> {
    return (await this.#tell({ kind: 'download', download: from })) as Downloaded;
  }

  async #tell(message: Errand): Promise<Answer | Downloaded | undefined> {
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
