// Deletes pod links behind the answer to DEL. Deleting a veth costs 16 ms of RCU grace periods under the lock that every
// ADD needs, but a hundred of one group cost hardly more: so DEL moves the link into the doomed group, and the group is
// deleted on a pool thread once nothing has happened for a moment (at the latest after a bounded wait).
import { toWeftError } from '#agent/errors.ts';
import { delLink } from '#agent/netlink/link.ts';
import { errno } from '#agent/netlink/netlink-error.ts';

import type { KernelIo } from './kernel-io.ts';
import type { DatapathSettings } from './settings.ts';

export interface ReaperOptions {
  readonly io: KernelIo;
  readonly settings: Pick<DatapathSettings, 'doomedGroup' | 'reapQuietMs' | 'reapLatestMs'>;
  /** The kernel refused to delete the group; it is tried again. */
  readonly onRefused: (reason: string) => void;
}

export class PodLinkReaper {
  readonly #io: KernelIo;
  readonly #settings: ReaperOptions['settings'];
  readonly #onRefused: ReaperOptions['onRefused'];
  /** Names in the doomed group that no running deletion covers yet. */
  #waiting = new Set<string>();
  #deleting: ReadonlySet<string> = new Set();
  #running: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #oldestMs = 0;
  #stopped = false;

  constructor(options: ReaperOptions) {
    this.#io = options.io;
    this.#settings = options.settings;
    this.#onRefused = options.onRefused;
  }

  /** Links that are doomed and not yet known to be gone. */
  get pending(): number {
    return this.#waiting.size + this.#deleting.size;
  }

  holds(ifname: string): boolean {
    return this.#waiting.has(ifname) || this.#deleting.has(ifname);
  }

  /** The link has just been moved into the doomed group. */
  doom(ifname: string): void {
    if (this.#waiting.size === 0) this.#oldestMs = performance.now();
    this.#waiting.add(ifname);
    this.#schedule();
  }

  /** An ADD or DEL is at work: leave the kernel to it for a moment longer. */
  busy(): void {
    if (this.#waiting.size > 0) this.#schedule();
  }

  /** Resolves when every link doomed so far is gone, or the kernel refused. */
  async flush(): Promise<void> {
    clearTimeout(this.#timer);
    if (this.#running) await this.#running;
    if (this.#waiting.size > 0) await this.#run();
  }

  /** Doomed links stay for the next start to find. */
  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  #schedule(): void {
    if (this.#running || this.#stopped) return;
    clearTimeout(this.#timer);
    const left = this.#oldestMs + this.#settings.reapLatestMs - performance.now();
    this.#timer = setTimeout(() => void this.#run(), Math.max(0, Math.min(this.#settings.reapQuietMs, left)));
    this.#timer.unref();
  }

  #run(): Promise<void> {
    this.#running ??= this.#deleteGroup().finally(() => {
      this.#running = undefined;
      this.#deleting = new Set();
      if (this.#waiting.size > 0) this.#schedule();
    });
    return this.#running;
  }

  async #deleteGroup(): Promise<void> {
    this.#deleting = this.#waiting;
    this.#waiting = new Set();
    try {
      const [reply] = await this.#io.route.batchAsync([delLink({ group: this.#settings.doomedGroup })]);
      if (reply.ok || reply.error.errno === errno.ENODEV) return;
      this.#refused(reply.error.message);
    } catch (error) {
      this.#refused(toWeftError(error).message);
    }
  }

  #refused(reason: string): void {
    this.#onRefused(reason);
    this.#oldestMs = performance.now();
    for (const ifname of this.#deleting) this.#waiting.add(ifname);
  }
}
