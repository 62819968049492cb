// The DEL spool's reading side: what shims left while no agent listened (cni-shim/spool.c), one file per attachment, named
// CONTAINERID@IFNAME.json. Drained at the agent's start before any request is served, then again whenever a file appears.
//
// A file may be older than the attachment that its key names now: the shim also keeps a DEL that it then delivers, and podman uses
// container ids again. So a kept DEL applies only to an attachment of the same namespace that was there when the file was written.

import { type FSWatcher, watch } from 'node:fs';
import { mkdir, readdir, readFile, stat, unlink } from 'node:fs/promises';
import { uptime } from 'node:os';
import { join } from 'node:path';

import { toWeftError, WeftError } from '#agent/errors.ts';
import type { AttachmentKey, Delegate, Lease } from '#agent/runtime/ipam.ts';
import type { AttachmentQueue } from './attachments.ts';
import { del } from './del.ts';
import { type CniParts, errnoOf } from './parts.ts';
import { parseCall, parseKey, type ShimRequest } from './request.ts';

const rescanMs = 10_000;
const atOnce = 16;
/** No shim writes more (cni-shim/shim.h, REQUEST_LIMIT). */
const longestBytes = 16 << 20;
/** What a shim is still writing: a dot, the final name, its process id. */
const unfinishedName = /^\..+\.json\.\d+$/;
/** An unfinished file older than this belongs to a shim that died. */
const unfinishedMs = 10 * 60_000;

interface KeptDel {
  readonly key: AttachmentKey;
  readonly path: string;
  readonly inode: number;
  readonly writtenMs: number;
  /** Empty where the shim saw no namespace. */
  readonly netnsInode: string;
  readonly bootId: string;
  /** Of its configuration; undefined where that is damaged. */
  readonly network: string | undefined;
  /** The plugin that its configuration names for addresses. */
  readonly delegate: Delegate | undefined;
}

export class Spool {
  readonly #directory: string;
  readonly #parts: CniParts;
  readonly #queue: AttachmentQueue;
  readonly #bootId: string;
  readonly #stopped = new AbortController();
  readonly #complained = new Set<string>();
  #draining: Promise<void> | undefined;
  #again = false;
  #watcher: FSWatcher | undefined;
  #timer: NodeJS.Timeout | undefined;

  constructor(directory: string, parts: CniParts, queue: AttachmentQueue, bootId: string) {
    this.#directory = directory;
    this.#parts = parts;
    this.#queue = queue;
    this.#bootId = bootId;
  }

  /** Makes the directory. Throws WeftError('io'). */
  async open(): Promise<void> {
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
    } catch (error) {
      throw new WeftError('io', `cannot make the spool directory ${this.#directory}: ${toWeftError(error).message}`, {
        details: this.#directory,
        cause: error,
      });
    }
  }

  /** Executes what is kept, then removes it. What fails is logged, stays, and is tried again. One drain at a time; calls are merged. */
  drain(): Promise<void> {
    if (this.#draining !== undefined) {
      this.#again = true;
      return this.#draining;
    }
    this.#draining = this.#drainAll().finally(() => {
      this.#draining = undefined;
    });
    return this.#draining;
  }

  /** Drains whenever a file appears, and every ten seconds for what failed or was not told. */
  watch(): void {
    this.#timer = setInterval(() => void this.drain(), rescanMs);
    this.#timer.unref();
    try {
      this.#watcher = watch(this.#directory, { persistent: false }, (_event, name) => {
        if (name !== null && !name.startsWith('.')) void this.drain();
      });
      this.#watcher.on('error', (error) =>
        this.#parts.log.warn({ err: error }, 'the DEL spool is looked at every ten seconds only'),
      );
    } catch (error) {
      this.#parts.log.warn({ err: error }, 'the DEL spool is looked at every ten seconds only');
    }
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    this.#watcher?.close();
    this.#stopped.abort();
    await this.#draining;
  }

  async #drainAll(): Promise<void> {
    do {
      this.#again = false;
      let names: readonly string[];
      try {
        names = await readdir(this.#directory);
      } catch (error) {
        this.#complain(this.#directory, 'the DEL spool cannot be read', error);
        return;
      }
      for (let from = 0; from < names.length && !this.#stopped.signal.aborted; from += atOnce) {
        await Promise.all(names.slice(from, from + atOnce).map((name) => this.#drainOne(name)));
      }
    } while (this.#again && !this.#stopped.signal.aborted);
  }

  async #drainOne(name: string): Promise<void> {
    const path = join(this.#directory, name);
    try {
      if (unfinishedName.test(name)) return await removeUnfinished(path);
      const kept = await readKept(path, name);
      const released = await this.#queue.run(kept.key, this.#stopped.signal, () =>
        del(kept.key, this.#parts, { ...kept, applies: (lease) => this.#appliesTo(kept, lease) }),
      );
      // A newer file of the same name is another DEL.
      if ((await stat(path)).ino === kept.inode) await unlink(path);
      this.#complained.delete(path);
      this.#parts.log.info(
        { ...kept.key, addresses: released?.addresses ?? [] },
        released === undefined ? 'kept DEL had nothing to do' : 'kept DEL done',
      );
    } catch (error) {
      if (error instanceof WeftError && error.kind === 'invalidEnvironment')
        return await this.#removeImpossible(path, error);
      if (errnoOf(error) !== 'ENOENT') this.#complain(path, 'a kept DEL failed and stays in the spool', error);
    }
  }

  /** The shim keeps a DEL whatever it names; one that no ADD can ever have named has nothing to delete. */
  async #removeImpossible(path: string, error: WeftError): Promise<void> {
    this.#parts.log.warn({ path, reason: error.message }, 'kept DEL removed: it names no possible attachment');
    await unlink(path).catch((refused: unknown) => this.#complain(path, 'a kept DEL cannot be removed', refused));
  }

  #appliesTo(kept: KeptDel, lease: Lease): boolean {
    const isOfThisBoot = kept.bootId === this.#bootId;
    if (isOfThisBoot && kept.netnsInode !== '' && lease.owner.netnsInode !== BigInt(kept.netnsInode)) return false;
    return kept.writtenMs >= lease.sinceMs || isOfEarlierClock(lease, isOfThisBoot);
  }

  /** Says it once per file: the next scans come every ten seconds. */
  #complain(path: string, message: string, error: unknown): void {
    if (this.#complained.has(path) || this.#stopped.signal.aborted) return;
    this.#complained.add(path);
    this.#parts.log.error({ err: error, path }, message);
  }
}

/**
 * Times do not tell what came first when the clock was set back since the lease, or stood wrong when the machine started, before it was
 * set: then the lease is of the future, or older than this boot.
 */
function isOfEarlierClock({ sinceMs }: Lease, isKeptInThisBoot: boolean): boolean {
  const nowMs = Date.now();
  return sinceMs > nowMs || (isKeptInThisBoot && sinceMs < nowMs - uptime() * 1000);
}

/** The name alone says what to delete; the content tells generations apart and may be damaged. Throws for a foreign file. */
async function readKept(path: string, name: string): Promise<KeptDel> {
  const match = /^([^@]+)@(.+)\.json$/.exec(name);
  if (match === null) throw new WeftError('undecodable', `${path} is not a file of the DEL spool`);
  const key = parseKey(match[1] ?? '', match[2] ?? '');
  const info = await stat(path);
  if (!info.isFile()) throw new WeftError('undecodable', `${path} is not a file`);
  const content = info.size > longestBytes ? '' : await readFile(path, 'utf8');
  return {
    key,
    path,
    inode: info.ino,
    writtenMs: info.mtimeMs,
    ...generationIn(content),
    ...configurationIn(content),
  };
}

function generationIn(content: string): Pick<KeptDel, 'netnsInode' | 'bootId'> {
  try {
    const json: unknown = JSON.parse(content);
    if (typeof json === 'object' && json !== null && 'netnsInode' in json && 'bootId' in json) {
      const { netnsInode, bootId } = json;
      if (typeof netnsInode === 'string' && /^[0-9]{0,20}$/.test(netnsInode) && typeof bootId === 'string') {
        return { netnsInode, bootId };
      }
    }
  } catch {
    // A damaged file still names its attachment.
  }
  return { netnsInode: '', bootId: '' };
}

/** Damaged content is of any network and forwards nothing. */
function configurationIn(content: string): Pick<KeptDel, 'network' | 'delegate'> {
  try {
    const call = parseCall(JSON.parse(content) as ShimRequest);
    if (call.verb === 'DEL') return { network: call.netConf.name, delegate: call.delegate };
  } catch {
    // A damaged file still names its attachment.
  }
  return { network: undefined, delegate: undefined };
}

async function removeUnfinished(path: string): Promise<void> {
  const info = await stat(path);
  if (info.isFile() && Date.now() - info.mtimeMs > unfinishedMs) await unlink(path);
}
