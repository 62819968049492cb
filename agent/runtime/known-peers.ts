// The peers as last heard, kept on disk over a restart. A fresh agent hears of the others one by one, and of none while the
// registry is away; without this its first comparison would take every peer's routes away, and running pods would lose packets.
// A remembered peer counts until the registry shows it anew or a whole list, read by this run, lacks it.
import { setTimeout as sleep } from 'node:timers/promises';

import { readIfThere, writeDurably } from '#agent/discovery/durable-file.ts';
import { toWeftError } from '#agent/errors.ts';
import type { Registry } from '#agent/registry/registry.ts';
import type { IpamView, PeerView } from '#agent/runtime/ipam.ts';
import type { RunningIpam } from '#agent/runtime/start.ts';
import { overlaps, parseCidr } from '#ipam-peer/cidr.ts';

export interface KnownPeersOptions {
  /** File of this cache; a missing or damaged one is an empty one. */
  readonly path: string;
  readonly registry: Pick<Registry, 'list'>;
  readonly log: { readonly warn: (fields: object, message: string) => void };
  /** Pause between a change and its write, and between two lists while a peer is only remembered. */
  readonly saveAfterMs?: number;
  readonly listEveryMs?: number;
}

/** The same IPAM, whose view also has the peers that were known before the restart and have not been heard of yet. */
export async function withKnownPeers(ipam: RunningIpam, options: KnownPeersOptions): Promise<RunningIpam> {
  const { path, log, saveAfterMs = 1000 } = options;
  const unheard = new Map((await load(options)).map((peer) => [peer.name, peer]));
  const listeners = new Set<() => void>();
  const ending = new AbortController();
  let saved = '';
  let timer: NodeJS.Timeout | undefined;
  let saving = Promise.resolve();

  const join = joiner(unheard);
  const view = (): IpamView => join(ipam.view());
  const save = (): void => {
    timer = undefined;
    const text = JSON.stringify(view().peers.filter((peer) => !peer.self));
    if (text === saved) return;
    saved = text;
    saving = saving
      .then(async () => await writeDurably(path, text))
      .catch((error: unknown) => log.warn({ err: toWeftError(error) }, 'cannot keep the list of peers for a restart'));
  };
  const stopSaving = ipam.onChange(() => void (timer ??= setTimeout(save, saveAfterMs)));
  const forgetting = forgetTheGone(unheard, options, ending.signal, () => {
    for (const listener of listeners) listener();
  });
  return {
    ...ipam,
    view,
    onChange: (listener) => {
      const stop = ipam.onChange(listener);
      listeners.add(listener);
      return () => {
        stop();
        listeners.delete(listener);
      };
    },
    close: async () => {
      stopSaving();
      ending.abort();
      if (timer !== undefined) {
        clearTimeout(timer);
        save();
      }
      await Promise.all([saving, forgetting]);
      await ipam.close();
    },
  };
}

/** What was heard in this run wins: over the remembered peer of that name, and over every block that it touches. */
function joiner(unheard: Map<string, PeerView>): (fresh: IpamView) => IpamView {
  let last: { readonly key: string; readonly peers: readonly PeerView[] } | undefined;
  return (fresh) => {
    for (const peer of fresh.peers) unheard.delete(peer.name);
    if (unheard.size === 0) return fresh;
    const taken = fresh.peers.flatMap(({ blocks }) => blocks);
    // Peers are only ever taken out. Who is remembered among thousands is the same as a rule: the same values are soon compared.
    const key = `${unheard.size} ${taken.join(' ')}`;
    if (last?.key !== key) last = { key, peers: withoutBlocks([...unheard.values()], taken) };
    return { ...fresh, peers: [...fresh.peers, ...last.peers].toSorted((a, b) => (a.name < b.name ? -1 : 1)) };
  };
}

function withoutBlocks(peers: readonly PeerView[], taken: readonly string[]): readonly PeerView[] {
  const others = taken.flatMap((text) => parseCidr(text) ?? []);
  return peers.map((peer) => {
    const blocks = peer.blocks.filter((text) => {
      const block = parseCidr(text);
      return block !== undefined && !others.some((other) => overlaps(other, block));
    });
    return { ...peer, blocks };
  });
}

/** Reads whole lists for as long as a peer is only remembered, and drops those that are in none. */
async function forgetTheGone(
  unheard: Map<string, PeerView>,
  { registry, listEveryMs = 5000 }: KnownPeersOptions,
  signal: AbortSignal,
  onForgotten: () => void,
): Promise<void> {
  for (;;) {
    // The watch has told of everyone long before, as a rule: no list is spent on that.
    await sleep(listEveryMs * (0.5 + Math.random()), undefined, { signal, ref: false }).catch(() => undefined);
    if (unheard.size === 0 || signal.aborted) return;
    try {
      const records = await registry.list('peer', signal);
      const there = new Set(records.map((record) => record.name));
      const gone = [...unheard.keys()].filter((name) => !there.has(name));
      for (const name of gone) unheard.delete(name);
      if (gone.length > 0) onForgotten();
    } catch {
      // Away: what is remembered stays, which is the point; the engine itself says that it is away.
    }
  }
}

async function load({ path, log }: KnownPeersOptions): Promise<readonly PeerView[]> {
  try {
    const text = await readIfThere(path);
    const peers: unknown = text === undefined ? [] : JSON.parse(text);
    if (Array.isArray(peers) && peers.every((peer) => isPeer(peer))) return peers;
    log.warn({ path }, 'the kept list of peers is damaged; peers are learnt anew');
  } catch (error) {
    log.warn({ path, err: toWeftError(error) }, 'the kept list of peers cannot be read; peers are learnt anew');
  }
  return [];
}

function isPeer(value: unknown): value is PeerView {
  const peer = value as Partial<PeerView> | null;
  const texts = (list: unknown): boolean => Array.isArray(list) && list.every((one) => typeof one === 'string');
  return (
    typeof peer === 'object' &&
    typeof peer?.name === 'string' &&
    typeof peer.nodeName === 'string' &&
    peer.self === false &&
    (peer.underlayAddress === undefined || typeof peer.underlayAddress === 'string') &&
    texts(peer.overlayAddresses) &&
    texts(peer.blocks)
  );
}
