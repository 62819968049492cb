// Takes back what pods held that went without a DEL (a runtime's crash, a state directory that was lost when the DEL came): looks now
// and then for leases whose pod is provably gone, and takes those down that were gone at two looks in a row. Gone is a pod only
// when the host end of its link is absent and its namespace is no namespace any more; what cannot be read counts as there.

import { readlinkSync, statSync } from 'node:fs';
import { dirname } from 'node:path';
import { toWeftError } from '#agent/errors.ts';
import type { Lease } from '#agent/runtime/ipam.ts';
import type { AttachmentQueue } from './attachments.ts';
import { del } from './del.ts';
import { errnoOf, type CniParts } from './parts.ts';
import { Recurring } from './recurring.ts';

export interface CollectorOptions {
  /** Time between two looks. */
  readonly everyMs: number;
  /** Names of the host ends of all pod links that there are. */
  readonly hostLinks: () => Promise<ReadonlySet<string>>;
}

export class Collector {
  readonly #options: CollectorOptions;
  readonly #parts: CniParts;
  readonly #queue: AttachmentQueue;
  readonly #looking: Recurring;
  /** Generations that were gone at the look before. */
  #suspects: ReadonlySet<string> = new Set();

  constructor(options: CollectorOptions, parts: CniParts, queue: AttachmentQueue) {
    this.#options = options;
    this.#parts = parts;
    this.#queue = queue;
    this.#looking = new Recurring({
      everyMs: options.everyMs,
      work: (signal) => this.look(signal),
      onError: (error) => parts.log.warn({ err: toWeftError(error) }, 'cannot look for leases of pods that are gone'),
    });
  }

  start(): void {
    this.#looking.start();
  }

  async stop(): Promise<void> {
    await this.#looking.stop();
  }

  /** One look; resolves to how many leases it took back. */
  async look(signal: AbortSignal = new AbortController().signal): Promise<number> {
    const links = await this.#options.hostLinks();
    const gone = this.#parts.ipam.leases().filter((lease) => this.#isGone(lease, links));
    const again = gone.filter(({ generation }) => this.#suspects.has(generation));
    this.#suspects = new Set(gone.map(({ generation }) => generation));
    let taken = 0;
    for (const lease of again) if (await this.#take(lease, signal)) taken += 1;
    return taken;
  }

  async #take(lease: Lease, signal: AbortSignal): Promise<boolean> {
    const { log } = this.#parts;
    const { containerId, ifname, addresses, generation } = lease;
    const applies = (current: Lease): boolean => current.generation === generation;
    try {
      const taken = await this.#queue.run(lease, signal, () => del(lease, this.#parts, { applies }));
      if (taken === undefined) return false;
      log.warn({ containerId, ifname, addresses }, 'taken back: the pod is gone, and no DEL came for it');
      return true;
    } catch (error) {
      log.warn({ containerId, ifname, err: toWeftError(error) }, 'cannot take back what a pod held that is gone');
      return false;
    }
  }

  #isGone({ state, hostIfname, owner }: Lease, links: ReadonlySet<string>): boolean {
    if (state !== 'active' || links.has(hostIfname)) return false;
    // Rebuilt from a link, which is not there any more.
    if (owner.netnsPath === '') return owner.linkedBy === undefined;
    try {
      const { isNetns, inode } = this.#parts.inspectNetns(owner.netnsPath);
      // A plain file may stand for a namespace that is mounted on it where this process cannot see it.
      return isNetns && inode !== owner.netnsInode;
    } catch (error) {
      return errnoOf(error) === 'ENOENT' && isTelling(owner.netnsPath);
    }
  }
}

/** inode of the machine's first pid namespace (linux/proc_ns.h, PROC_PID_INIT_INO). */
const firstPidNamespace = 'pid:[4026531836]';

/** Whether a path that leads nowhere shows that there is nothing: its folder is seen, and a process' folder is the machine's. */
function isTelling(path: string): boolean {
  try {
    if (path.startsWith('/proc/')) return readlinkSync('/proc/self/ns/pid') === firstPidNamespace;
    return statSync(dirname(path)).isDirectory();
  } catch {
    return false;
  }
}
