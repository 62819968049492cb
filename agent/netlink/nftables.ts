// libnftables for whole rulesets: nft's own language, applied atomically. One context is kept per namespace, because opening and
// closing its socket costs 10 ms; it serves one call at a time, so asynchronous calls queue.
// Its JSON output is not offered: two contexts that list at once on pool threads abort the process (json.c: set_dtype_json, an
// assertion, seen with Debian's 1.0.6 on Linux 6.18). What the agent reads it reads over nfnetlink.

import { nativeAddon, type NativeAddon, type NftablesHandle, type NftablesResult } from '#agent/native/addon.ts';
import { WeftError } from '#agent/errors.ts';

import { fromNative } from './netlink-error.ts';

/** NFT_CTX_OUTPUT_HANDLE (nftables/libnftables.h). */
const outputHandle = 8;

export interface NftablesOptions {
  readonly netnsPath?: string;
}

export interface RunOptions {
  /** Output with handles. */
  readonly handle?: boolean;
}

/** nft's refusal; `details` holds its words with the place in the input. */
export class NftablesError extends WeftError {
  constructor(result: NftablesResult) {
    const first = result.error.split('\n', 1)[0] ?? '';
    super('kernel', `nftables: ${first === '' ? `failed with code ${result.code}` : first}`, { details: result.error });
  }
}

export class Nftables implements Disposable {
  readonly #addon: NativeAddon;
  readonly #handle: NftablesHandle;
  #last: Promise<unknown> = Promise.resolve();
  /** Runs that the kernel accepted. */
  runs = 0;
  #running = 0;
  #closed = false;

  private constructor(addon: NativeAddon, handle: NftablesHandle) {
    this.#addon = addon;
    this.#handle = handle;
  }

  /** Throws NetlinkError ELIBACC when libnftables.so.1 is not installed (Debian: libnftables1). */
  static open(options: NftablesOptions = {}): Nftables {
    const addon = nativeAddon();
    try {
      return new Nftables(addon, addon.nftOpen(options.netnsPath ?? null));
    } catch (error) {
      throw fromNative(error, 'nftables');
    }
  }

  /** Applies commands all or none and returns what they print. Not while a `runAsync` is under way. Throws NftablesError. */
  run(commands: string, options: RunOptions = {}): string {
    if (this.#closed || this.#running > 0) throw new WeftError('internal', 'nftables: the context is closed or in use');
    const output = outputOrThrow(this.#addon.nftRun(this.#handle, commands, flagsOf(options)));
    this.runs += 1;
    return output;
  }

  /** The same on a pool thread, one after the other. An aborted signal stops a call that has not begun. */
  async runAsync(commands: string, options: RunOptions = {}, signal?: AbortSignal): Promise<string> {
    this.#running += 1;
    const turn = this.#last.then(async () => {
      signal?.throwIfAborted();
      if (this.#closed) throw new WeftError('internal', 'nftables: the context is closed');
      return this.#addon.nftRunAsync(this.#handle, commands, flagsOf(options));
    });
    this.#last = turn.catch(() => undefined);
    try {
      const output = outputOrThrow(await turn);
      this.runs += 1;
      return output;
    } finally {
      this.#running -= 1;
      if (this.#closed && this.#running === 0) this.#addon.nftClose(this.#handle);
    }
  }

  [Symbol.dispose](): void {
    if (this.#closed) return;
    this.#closed = true;
    if (this.#running === 0) this.#addon.nftClose(this.#handle);
  }
}

function flagsOf(options: RunOptions): number {
  return options.handle === true ? outputHandle : 0;
}

function outputOrThrow(result: NftablesResult): string {
  if (result.code !== 0) throw new NftablesError(result);
  return result.output;
}
