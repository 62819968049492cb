// `table inet weft` in the kernel: loaded whole through libnftables in one transaction, read back and changed element by
// element over nfnetlink (0.2 ms where a load takes milliseconds). What the table says is in ruleset.ts.
import {
  delSetElement,
  dumpSetElements,
  maxElementsPerRequest,
  newSetElement,
  tableFamily,
} from '#agent/netlink/set-element.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { errno, NetlinkError } from '#agent/netlink/netlink-error.ts';
import { addressElements } from '#agent/netlink/peer-writes.ts';

import type { KernelIo } from './kernel-io.ts';
import { commentOf, dormantFlag, dumpChains, dumpRules, dumpTables } from './nft-objects.ts';
import type { NftChain, NftRule, NftTable } from './nft-objects.ts';
import type { ActualFirewall, DesiredFirewall, Operation } from './objects.ts';
import { bridgeMark, chainPrint, orderFingerprint, rulePrint } from './ruleset.ts';
import { elementFrom, elementSpec } from './set-codec.ts';
import { elementText, noElements, resolved, setNames, shapeOf, tableOf } from './set-shapes.ts';
import type { ElementRef, IndexOf, NameOf, SetName } from './set-shapes.ts';

/** Adds elements in one transaction; those already there are no error, those of links that are gone are left out. Throws NetlinkError. */
export function addElements(io: KernelIo, table: string, elements: readonly ElementRef[], indexOf: IndexOf): void {
  const requests = requestsFor('add', table, resolvedAll(elements, indexOf));
  if (requests.length > 0) io.netfilter.transaction(requests);
}

/** The same on a pool thread: thousands. */
export async function addElementsAsync(
  io: KernelIo,
  table: string,
  elements: readonly ElementRef[],
  indexOf: IndexOf,
  signal: AbortSignal | undefined,
): Promise<void> {
  await io.netfilter.transactionAsync(requestsFor('add', table, resolvedAll(elements, indexOf)), signal);
}

/** Removes elements; those that are not there are no error, those of links that are gone stay. Throws NetlinkError. */
export function removeElements(io: KernelIo, table: string, elements: readonly ElementRef[], indexOf: IndexOf): void {
  removeResolved(io, table, resolvedAll(elements, indexOf));
}

/** Removes elements and adds others in one transaction, as `removeElements` and `addElements`. Throws NetlinkError. */
export function replaceElements(
  io: KernelIo,
  table: string,
  gone: readonly ElementRef[],
  come: readonly ElementRef[],
  indexOf: IndexOf,
): void {
  const removal = requestsFor('del', table, resolvedAll(gone, indexOf));
  const requests = [...removal, ...requestsFor('add', table, resolvedAll(come, indexOf))];
  if (requests.length === 0) return;
  try {
    io.netfilter.transaction(requests);
  } catch (error) {
    if (!isAbsent(error) || removal.length === 0) throw error;
    removeElements(io, table, gone, indexOf);
    addElements(io, table, come, indexOf);
  }
}

/** `removeElements` on a pool thread: thousands. */
export async function removeElementsAsync(
  io: KernelIo,
  table: string,
  elements: readonly ElementRef[],
  indexOf: IndexOf,
  signal: AbortSignal | undefined,
): Promise<void> {
  const found = resolvedAll(elements, indexOf);
  try {
    await io.netfilter.transactionAsync(requestsFor('del', table, found), signal);
  } catch (error) {
    if (!isAbsent(error)) throw error;
    for (const element of found) removeResolved(io, table, [element]);
  }
}

function removeResolved(io: KernelIo, table: string, elements: readonly ElementRef[]): void {
  const requests = requestsFor('del', table, elements);
  if (requests.length === 0) return;
  try {
    io.netfilter.transaction(requests);
  } catch (error) {
    if (!isAbsent(error)) throw error;
    if (elements.length > 1) for (const element of elements) removeResolved(io, table, [element]);
  }
}

function resolvedAll(elements: readonly ElementRef[], indexOf: IndexOf): readonly ElementRef[] {
  return elements.flatMap((element) => {
    const found = resolved(element.set, element.key, indexOf);
    if (found === element.key) return [element];
    return found === undefined ? [] : [{ set: element.set, key: found }];
  });
}

/** Removes the elements of a pod whose link is gone: the kernel knows the link by a number that nobody remembers. */
export function removeOfGoneLink(io: KernelIo, table: string, elements: readonly ElementRef[]): void {
  const found: ElementRef[] = [];
  for (const { set, key } of elements) {
    const address = key.slice(key.indexOf(' . '));
    if (shapeOf(set).key[0] !== 'iface_index') found.push({ set, key });
    else
      for (const other of readElementsNow(io, table, set)) if (other.endsWith(address)) found.push({ set, key: other });
  }
  removeElements(io, table, found, () => undefined);
}

function readElementsNow(io: KernelIo, table: string, set: SetName): readonly string[] {
  try {
    const lists = io.netfilter.dump(dumpSetElements({ table, set, family: tableFamily[tableOf(set)] }));
    return lists.flatMap((list) => list.elements ?? []).map((element) => elementFrom(set, element, numberOf));
  } catch (error) {
    if (isAbsent(error)) return [];
    throw error;
  }
}

/** For those who look for no link's name. */
const numberOf: NameOf = (ifindex) => `#${ifindex}`;

function isAbsent(error: unknown): boolean {
  return error instanceof NetlinkError && error.errno === errno.ENOENT;
}

function requestsFor(
  kind: 'add' | 'del',
  table: string,
  elements: readonly ElementRef[],
): readonly NetlinkRequest<unknown>[] {
  const keys = new Map<SetName, string[]>();
  for (const { set, key } of elements) {
    const known = keys.get(set);
    if (known) known.push(key);
    else keys.set(set, [key]);
  }
  const requests: NetlinkRequest<unknown>[] = [];
  for (const set of setNames) {
    const all = keys.get(set) ?? [];
    for (let from = 0; from < all.length; from += maxElementsPerRequest) {
      requests.push(requestFor(kind, table, set, all.slice(from, from + maxElementsPerRequest)));
    }
  }
  return requests;
}

function requestFor(
  kind: 'add' | 'del',
  table: string,
  set: SetName,
  keys: readonly string[],
): NetlinkRequest<unknown> {
  const where = { table, set, family: tableFamily[tableOf(set)] };
  if (set === 'peers4' || set === 'peers6') return addressElements(kind, where, keys);
  const specs = keys.map((key) => elementSpec(set, key));
  return kind === 'add' ? newSetElement(where, specs) : delSetElement(where, specs);
}

/** The whole table in nft's language; replaces what is there in the same transaction. */
function firewallText(table: string, firewall: DesiredFirewall, dropsBridgeTable: boolean, indexOf: IndexOf): string {
  const { body, bridgeBody } = firewall.ruleset;
  const anew = (family: string, text: string): readonly string[] => [
    `table ${family} ${table}`,
    `delete table ${family} ${table}`,
    ...(text === '' ? [] : [`table ${family} ${table} {`, text, '}']),
  ];
  const lines = [...anew('inet', body)];
  if (bridgeBody !== undefined || dropsBridgeTable) lines.push(...anew('bridge', bridgeBody ?? ''));
  for (const set of setNames) {
    if (tableOf(set) === 'bridge' && bridgeBody === undefined) continue;
    const elements = [...firewall.elements[set]]
      .map((key) => resolved(set, key, indexOf))
      .flatMap((key) => (key === undefined ? [] : [elementText(set, key)]));
    if (elements.length > 0) lines.push(`add element ${tableOf(set)} ${table} ${set} { ${elements.join(', ')} }`);
  }
  return lines.join('\n');
}

/** Loads what `firewallText` says, and notes its rules. Throws NftablesError and NetlinkError. */
export function loadFirewall(
  io: KernelIo,
  table: string,
  { firewall, dropsBridgeTable }: Extract<Operation, { readonly kind: 'loadFirewall' }>,
  indexOf: IndexOf,
): void {
  io.nft.run(firewallText(table, firewall, dropsBridgeTable, indexOf));
  io.knownRules.clear();
  const families =
    firewall.ruleset.bridgeBody === undefined ? [tableFamily.inet] : [tableFamily.inet, tableFamily.bridge];
  const rules = families.flatMap((family) => io.netfilter.dump(dumpRules(family, table)));
  noteRules(
    io,
    io.netfilter.dump(dumpTables()),
    rules.filter((rule) => rule.table === table),
  );
}

function noteRules(io: KernelIo, tables: readonly NftTable[], rules: readonly NftRule[]): void {
  for (const rule of rules) io.knownRules.set(ruleIdentity(tables, rule), Uint8Array.from(codeOf(rule)));
}

/** A rule that somebody replaces may keep its comment, and keeps its handle; a table made anew has another of its own. */
function isKnown(io: KernelIo, tables: readonly NftTable[], rule: NftRule): boolean {
  const code = io.knownRules.get(ruleIdentity(tables, rule));
  return code !== undefined && Buffer.compare(code, codeOf(rule)) === 0;
}

function codeOf({ expressions = new Uint8Array() }: NftRule): Uint8Array {
  return expressions;
}

function ruleIdentity(tables: readonly NftTable[], { nfgenFamily, table, handle }: NftRule): string {
  const home = tables.find((candidate) => candidate.nfgenFamily === nfgenFamily && candidate.name === table);
  return `${home?.handle} ${handle}`;
}

/** Names of the netfilter hooks of the families ip, ip6 and inet, by number (linux/netfilter.h). */
const hookNames = ['prerouting', 'input', 'forward', 'output', 'postrouting'] as const;
const policyDrop = 0;

/** What a listing of a table of family bridge comes to; empty where there is none. Throws NetlinkError. */
export function readBridgeFingerprint(io: KernelIo, table: string): readonly string[] {
  const isOwn = (object: { readonly nfgenFamily: number; readonly table?: string }): boolean =>
    object.nfgenFamily === tableFamily.bridge && object.table === table;
  const chains = io.netfilter.dump(dumpChains()).filter(isOwn);
  if (chains.length === 0) return [];
  const rules = io.netfilter.dump(dumpRules(tableFamily.bridge, table)).filter(isOwn);
  return orderFingerprint([...chains.map(chainLine), ...rules.map(ruleLine)]);
}

function ruleLine(rule: NftRule): string {
  return rulePrint(printName(rule.nfgenFamily, rule.chain), commentOf(rule.userdata));
}

/** Reads the table; an absent one has an empty fingerprint. Throws NetlinkError. */
export async function readFirewall(
  io: KernelIo,
  table: string,
  nameOf: NameOf,
  signal?: AbortSignal,
): Promise<ActualFirewall & { readonly foreignChains: readonly NftChain[]; readonly hasTable: boolean }> {
  const chains = await io.netfilter.dumpAsync(dumpChains(), signal);
  const ours = ({ nfgenFamily }: NftChain): boolean =>
    nfgenFamily === tableFamily.inet || nfgenFamily === tableFamily.bridge;
  const own = chains.filter((chain) => ours(chain) && chain.table === table);
  const bridged = own.some(({ nfgenFamily }) => nfgenFamily === tableFamily.bridge);
  const foreignChains = chains.filter((chain) => !own.includes(chain));
  if (own.length === 0) return { fingerprint: [], elements: noElements(), foreignChains, hasTable: false };
  const rules = [...(await io.netfilter.dumpAsync(dumpRules(tableFamily.inet, table), signal))];
  if (bridged) rules.push(...(await io.netfilter.dumpAsync(dumpRules(tableFamily.bridge, table), signal)));
  const ownRules = rules.filter((rule) => rule.table === table);
  const lines = [...own.map(chainLine), ...ownRules.map(ruleLine)];
  const tables = await io.netfilter.dumpAsync(dumpTables(), signal);
  if (io.knownRules.size === 0) noteRules(io, tables, ownRules);
  for (const rule of ownRules) if (!isKnown(io, tables, rule)) lines.push(`${ruleLine(rule)} altered`);
  for (const { nfgenFamily, name, flags = 0 } of tables) {
    if (name === table && (flags & dormantFlag) !== 0) lines.push(`table ${nfgenFamily} is dormant`);
  }
  const elements: Record<SetName, ReadonlySet<string>> = { ...noElements() };
  for (const set of setNames) {
    if (tableOf(set) === 'bridge' && !bridged) continue;
    const keys = await readElements(io, table, set, nameOf, signal);
    if (keys) elements[set] = keys;
    else lines.push(`set ${set} is missing`);
  }
  return { fingerprint: orderFingerprint(lines), elements, foreignChains, hasTable: true };
}

/** Chains of the table of family bridge are told apart by this in a fingerprint. */
function printName(family: number, chain = ''): string {
  return family === tableFamily.bridge ? `${bridgeMark}${chain}` : chain;
}

function chainLine(chain: NftChain): string {
  const name = printName(chain.nfgenFamily, chain.name);
  if (!chain.hook) return chainPrint({ name });
  const { hooknum = -1, priority = 0 } = chain.hook;
  const line = chainPrint({ name, base: { type: chain.type ?? '', hook: hookNames[hooknum] ?? '', prio: priority } });
  return chain.policy === policyDrop ? `${line} but drops` : line;
}

/** Undefined where the set is not there. */
async function readElements(
  io: KernelIo,
  table: string,
  set: SetName,
  nameOf: NameOf,
  signal: AbortSignal | undefined,
): Promise<ReadonlySet<string> | undefined> {
  try {
    const lists = await io.netfilter.dumpAsync(
      dumpSetElements({ table, set, family: tableFamily[tableOf(set)] }),
      signal,
    );
    return new Set(lists.flatMap((list) => list.elements ?? []).map((element) => elementFrom(set, element, nameOf)));
  } catch (error) {
    if (isAbsent(error)) return undefined;
    throw error;
  }
}
