// Executes a list of operations in order: the one module, besides pod-link.ts for single pods, that writes. Runs of
// rtnetlink messages go out as one batch, runs of set elements as one transaction. What the kernel refuses is returned
// with its words and does not stop the rest; removing what is gone already is success.
//
// Of thousands (peers) the kernel works on some while the next are written:
//
//   here            elements | messages 1 | messages 2 | messages 3 | …
//   pool thread              └─ messages 1 ─┴─ messages 2 ─┴─ …
//   another                  └─ elements
//
// Elements say what may come in and messages where packets go, so neither waits for the other; elements that go wait for everything before.
import { addrGenMode } from '#agent/netlink/link-af-spec.ts';
import { delLink, getLink, newLink, setLink } from '#agent/netlink/link.ts';
import type { LinkRequest } from '#agent/netlink/link.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { errno, NetlinkError } from '#agent/netlink/netlink-error.ts';
import type { NetlinkReply } from '#agent/netlink/reply.ts';
import { toWeftError } from '#agent/errors.ts';

import { applyBridge, isBridgeOperation } from './bridge-io.ts';
import { familyOf } from './cidr.ts';
import { addElementsAsync, loadFirewall, removeElementsAsync, replaceElements } from './firewall.ts';
import type { KernelIo } from './kernel-io.ts';
import { liveIndexOf } from './link-io.ts';
import { MessageRequests, upWithArp } from './message-requests.ts';
import type { MessageOperation, Operation, OverlayLink } from './objects.ts';
import type { ElementRef } from './set-shapes.ts';
import type { DatapathSettings } from './settings.ts';

export interface Refusal {
  readonly operation: Operation;
  readonly reason: string;
  /** The kernel's errno where it was one message that it refused. */
  readonly errno?: number;
}

/** Without these a new pod would not work; any other refusal is a finding. */
const essential: ReadonlySet<Operation['kind']> = new Set([
  'loadFirewall',
  'addElement',
  'addOverlay',
  'setOverlay',
  'delOverlay',
  'addBridge',
  'setBridge',
  'setPort',
  'addAddress',
]);

/** After it another reading is due: only that knows the device's ifindex, by which notifications name it. */
export function makesDevice({ kind }: Operation): boolean {
  return kind === 'addOverlay' || kind === 'addBridge';
}

export function isEssential({ operation }: Refusal): boolean {
  return essential.has(operation.kind);
}

/** Beyond this many messages or elements they are written on a pool thread. */
const mostSynchronous = 200;
/** Messages that are written to the kernel at once: one exchange. */
const messagesAtOnce = 2500;

/** "Gone already" in the kernel's many words. */
const absent: ReadonlySet<number> = new Set([errno.ENOENT, errno.ESRCH, errno.ENODEV, errno.EADDRNOTAVAIL]);

type Group = 'load' | 'addElements' | 'delElements' | 'replaceElements' | 'overlay' | 'messages' | 'sysctls';

const groups: Readonly<Record<Operation['kind'], Group>> = {
  loadFirewall: 'load',
  addElement: 'addElements',
  delElement: 'delElements',
  addOverlay: 'overlay',
  setOverlay: 'overlay',
  delOverlay: 'overlay',
  addBridge: 'overlay',
  setBridge: 'overlay',
  delBridge: 'overlay',
  setPort: 'overlay',
  setPodLink: 'messages',
  doomPodLink: 'messages',
  addAddress: 'messages',
  delAddress: 'messages',
  putPortEntry: 'messages',
  delPortEntry: 'messages',
  putFdb: 'messages',
  delFdb: 'messages',
  putNeighbour: 'messages',
  delNeighbour: 'messages',
  freeNeighbour: 'messages',
  addNexthop: 'messages',
  delNexthop: 'messages',
  putRoute: 'messages',
  delRoute: 'messages',
  setSysctl: 'sysctls',
};

/** True for an operation that is one rtnetlink message. */
export function isMessage(operation: Operation): operation is MessageOperation {
  return groups[operation.kind] === 'messages';
}

/** Applies `operations` in order. Throws only when a socket breaks; the kernel's refusals are returned. */
export async function applyOperations(
  io: KernelIo,
  settings: DatapathSettings,
  operations: readonly Operation[],
  ifindexes: ReadonlyMap<string, number>,
  signal?: AbortSignal,
): Promise<readonly Refusal[]> {
  return await applyParts(io, settings, [operations], ifindexes, signal);
}

/** The same of parts that do not depend on each other: each is asked for while the kernel works on the one before. */
export async function applyParts(
  io: KernelIo,
  settings: DatapathSettings,
  parts: Iterable<readonly Operation[]>,
  ifindexes: ReadonlyMap<string, number>,
  signal?: AbortSignal,
): Promise<readonly Refusal[]> {
  const applier = new Applier(io, settings, new Map(ifindexes), signal);
  try {
    for (const operations of parts) {
      for (let from = 0, to = 0; from < operations.length; from = to) {
        let group = groups[(operations[from] as Operation).kind];
        to = endOfGroup(operations, from);
        if (group === 'delElements' && operations[to]?.kind === 'addElement') {
          group = 'replaceElements';
          to = endOfGroup(operations, to);
        }
        await applier.run(group, operations.slice(from, to));
      }
    }
  } finally {
    await applier.settled();
  }
  return applier.refusals;
}

function endOfGroup(operations: readonly Operation[], from: number): number {
  const group = groups[(operations[from] as Operation).kind];
  let to = from + 1;
  for (let next = operations[to]; next && groups[next.kind] === group; next = operations[to]) to++;
  return to;
}

class Applier {
  readonly refusals: Refusal[] = [];
  readonly #io: KernelIo;
  readonly #settings: DatapathSettings;
  readonly #ifindexes: Map<string, number>;
  readonly #signal: AbortSignal | undefined;
  readonly #requests: MessageRequests;
  /** What the kernel is at work on. Where it is idle the next write is made at once: nobody else runs in between. */
  #isIdle = true;
  #sent: Promise<void> = Promise.resolve();
  #elements: Promise<void> = Promise.resolve();

  constructor(
    io: KernelIo,
    settings: DatapathSettings,
    ifindexes: Map<string, number>,
    signal: AbortSignal | undefined,
  ) {
    this.#io = io;
    this.#settings = settings;
    this.#ifindexes = ifindexes;
    this.#signal = signal;
    this.#requests = new MessageRequests(settings, ifindexes);
  }

  /** Everything has been written. */
  async settled(): Promise<void> {
    await this.#written();
    this.#isIdle = true;
  }

  #written(): Promise<unknown> {
    return Promise.all([this.#sent, this.#elements]);
  }

  async run(group: Group, operations: readonly Operation[]): Promise<void> {
    if (operations.length > mostSynchronous && group === 'messages') {
      for (let from = 0; from < operations.length; from += messagesAtOnce) {
        await this.#sendMessages(operations.slice(from, from + messagesAtOnce).filter(isMessage));
      }
    } else if (operations.length > mostSynchronous && group === 'addElements') {
      this.#writeElements(this.#elements, operations, addElementsAsync);
    } else if (operations.length > mostSynchronous && group === 'delElements') {
      this.#writeElements(this.#written(), operations, removeElementsAsync);
    } else {
      if (!this.#isIdle) await this.settled();
      await this.#guarded(operations, () => this.#write(group, operations));
    }
  }

  async #guarded(operations: readonly Operation[], work: () => Promise<void> | void): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.#signal?.throwIfAborted();
      const number = error instanceof NetlinkError ? { errno: error.errno } : {};
      const reason = toWeftError(error).message;
      for (const operation of operations) this.refusals.push({ operation, reason, ...number });
    }
  }

  #write(group: Group, operations: readonly Operation[]): void {
    if (group === 'load') this.#load(operations);
    else if (group === 'overlay') this.#overlay(operations);
    else if (group === 'sysctls') this.#sysctls(operations);
    else if (group === 'messages') this.#messages(operations.filter(isMessage));
    else {
      const [table, indexOf] = [this.#settings.nftTable, liveIndexOf(this.#io)];
      const [gone, come] = (['delElement', 'addElement'] as const).map((kind) =>
        elementsOf(operations.filter((operation) => operation.kind === kind)),
      );
      replaceElements(this.#io, table, gone ?? [], come ?? [], indexOf);
    }
  }

  #writeElements(
    after: Promise<unknown>,
    operations: readonly Operation[],
    write: typeof addElementsAsync | typeof removeElementsAsync,
  ): void {
    const work = (): Promise<void> =>
      write(this.#io, this.#settings.nftTable, elementsOf(operations), liveIndexOf(this.#io), this.#signal);
    this.#elements = after.then(() => this.#guarded(operations, work));
    this.#isIdle = false;
    this.#elements.catch(() => undefined); // told of by `settled`
  }

  /** Synchronous: an attach in between would lose its elements. */
  #load(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (operation.kind !== 'loadFirewall') continue;
      loadFirewall(this.#io, this.#settings.nftTable, operation, liveIndexOf(this.#io));
    }
  }

  #sysctls(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (operation.kind === 'setSysctl') this.#io.writeSysctl(operation.name, operation.value);
    }
  }

  #overlay(operations: readonly Operation[]): void {
    for (const operation of operations) {
      if (operation.kind === 'delOverlay') {
        this.#io.route.batchOrThrow([delLink({ ifname: operation.ifname })]);
        this.#ifindexes.delete(operation.ifname);
      } else if (operation.kind === 'addOverlay') {
        this.#makeOverlay(overlayRequest(operation.link));
        this.#settle(operation.link);
      } else if (operation.kind === 'setOverlay') {
        this.#settle(operation.link);
      } else if (isBridgeOperation(operation)) {
        const ifindex = applyBridge(this.#io, operation);
        if ('link' in operation && ifindex !== undefined) this.#ifindexes.set(operation.link.ifname, ifindex);
      }
    }
  }

  /** With the number that the rules know it by; where somebody has that, with any. */
  #makeOverlay(request: LinkRequest): void {
    const [made] = this.#io.route.batch([newLink({ ...request, ifiIndex: this.#settings.overlayIfindex })]);
    if (!made.ok) this.#io.route.batchOrThrow([newLink(request)]);
  }

  /**
   * What can be set on a living device; the address generation mode before the link comes up. The MAC only where it is another: setting
   * it, be it to the same, takes every neighbour off the device, permanent ones too (neigh_changeaddr).
   */
  #settle(link: OverlayLink): void {
    const { ifname } = link;
    const [[now]] = this.#io.route.batchOrThrow([getLink({ ifname })]);
    const address = now?.address === link.mac ? {} : { address: link.mac };
    // Apart: refused where IPv6 is off.
    this.#io.route.batch([setLink({ ifname, afSpec: { inet6: { addrGenMode: addrGenMode.none } } })]);
    const [, , , answer] = this.#io.route.batchOrThrow([
      setLink({ ifname, ...address, mtu: link.mtuBytes, master: 0 }),
      setLink({ ifname, afSpec: { inet: { conf: { rpFilter: link.rpFilter, forwarding: 1 } } } }),
      setLink({ ifname, ...upWithArp }),
      getLink({ ifname }),
    ]);
    const [found] = answer;
    if (found) this.#ifindexes.set(ifname, found.ifiIndex);
  }

  #messages(operations: readonly MessageOperation[]): void {
    const { sent, requests } = this.#requested(operations);
    this.#noteReplies(sent, this.#io.route.batch(requests));
  }

  /** Writes them down, waits until the kernel is done with those before, and sends them. */
  async #sendMessages(operations: readonly MessageOperation[]): Promise<void> {
    const { sent, requests } = this.#requested(operations);
    const send = this.#io.route.prepare(requests);
    if (!this.#isIdle) await this.#sent;
    this.#isIdle = false;
    this.#sent = this.#guarded(sent, async () => this.#noteReplies(sent, await send(this.#signal)));
    this.#sent.catch(() => undefined); // told of by `settled`
  }

  #requested(operations: readonly MessageOperation[]): {
    readonly sent: readonly MessageOperation[];
    readonly requests: readonly NetlinkRequest<unknown>[];
  } {
    const sent: MessageOperation[] = [];
    const requests: NetlinkRequest<unknown>[] = [];
    for (const operation of operations) {
      const request = this.#requests.of(operation);
      if (request === undefined) {
        this.refusals.push({ operation, reason: 'its link is gone' });
        continue;
      }
      sent.push(operation);
      requests.push(request);
    }
    return { sent, requests };
  }

  #noteReplies(sent: readonly MessageOperation[], replies: readonly NetlinkReply<unknown>[]): void {
    for (const [index, reply] of replies.entries()) {
      const operation = sent[index];
      if (reply.ok || !operation || isGone(operation, reply.error)) continue;
      this.refusals.push({ operation, reason: reply.error.message, errno: reply.error.errno });
      this.#putWithoutSource(operation, reply.error);
    }
  }

  /** While the overlay's address is not there (its port is taken, say) the kernel takes it as no source: pods of this node have each other. */
  #putWithoutSource(operation: MessageOperation, error: NetlinkError): void {
    if (operation.kind !== 'putRoute' || error.errno !== errno.EINVAL) return;
    const { route } = operation;
    const { target } = route;
    if (!('ifname' in target) || target.prefsrc === undefined) return;
    const bare = { ...operation, route: { ...route, target: { ...target, prefsrc: undefined } } };
    const request = this.#requests.of(bare);
    if (request) this.#io.route.batch([request]);
  }
}

function elementsOf(operations: readonly Operation[]): readonly ElementRef[] {
  return operations.flatMap((operation): ElementRef[] =>
    operation.kind === 'addElement' || operation.kind === 'delElement' ? [operation] : [],
  );
}

function isGone(operation: Operation, error: NetlinkError): boolean {
  const removes = /^(del|doom|free)/.test(operation.kind);
  if (removes) return absent.has(error.errno);
  return operation.kind === 'addAddress' && error.errno === errno.EEXIST;
}

function overlayRequest(link: OverlayLink): LinkRequest {
  const local = familyOf(link.local) === 4 ? { local: link.local } : { local6: link.local };
  return {
    ifname: link.ifname,
    address: link.mac,
    mtu: link.mtuBytes,
    // No underlay device is named: the routing table decides, and the overlay does not vanish with that link.
    linkinfo: { kind: 'vxlan', data: { id: link.vni, port: link.port, learning: false, ...local } },
  };
}
