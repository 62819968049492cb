// Firewalls of the host whose policy drops what Weft needs (Docker's FORWARD, ufw's INPUT and FORWARD, a hand-made table): an accept
// in our own table cannot overrule a drop in a later chain, so two tagged accept rules stand at the head of the chain that drops,
// in the backend that owns it. Nothing else of a foreign table is touched, and `weft clean` takes the rules away.
//
//   forward  iifname "weftp*" accept, oifname "weftp*" accept
//   input    udp dport <overlay's port> accept   (strangers were dropped in prerouting already)
//
// A rule is ours by its whole comment, which for `input` names the port: another agent's may be another. What one of ours says is
// remembered by its handle, which a rule that somebody replaces keeps.
//
// iptables-nft is nftables with names of its own: rules are put there natively, and iptables lists them as its own. Legacy iptables
// has another kernel interface, which only its own program speaks.
import { execFile } from 'node:child_process';

import { tableFamily } from '#agent/netlink/set-element.ts';
import { toWeftError } from '#agent/errors.ts';

import type { KernelIo } from './kernel-io.ts';
import { commentOf, dumpChainRules } from './nft-objects.ts';
import type { NftChain, NftRule } from './nft-objects.ts';
import type { Finding } from './objects.ts';
import type { DatapathSettings } from './settings.ts';

/** A foreign base chain that drops by policy what Weft may need: `forward` for pods, `input` for the overlay's UDP. */
interface ForeignDrop {
  readonly hook: ForeignHook;
  /** `ip filter FORWARD`, as nft names it. */
  readonly chain: string;
  readonly family: number;
  readonly table: string;
  readonly name: string;
}

type ForeignHook = 'forward' | 'input';

/** By this comment our rules are known, also after iptables-save and iptables-restore have made a match of it. */
const acceptTag = 'weft:accept';

function tagOf(hook: ForeignHook, { vxlanPort }: Pick<DatapathSettings, 'vxlanPort'>): string {
  return hook === 'input' ? `${acceptTag}:${vxlanPort}` : acceptTag;
}

/** The tag where the text is one of ours, of whatever port. */
const anyTag = /^weft:accept(?::\d+)?$/;

/** NF_DROP (linux/netfilter.h). */
const policyDrop = 0;

const familyNames: Readonly<Record<number, string>> = {
  [tableFamily.inet]: 'inet',
  [tableFamily.ipv4]: 'ip',
  [tableFamily.ipv6]: 'ip6',
};

/** Where a chain is one of the hooks that matter; undefined otherwise. Hooks by number as in linux/netfilter.h. */
function placeOf(chain: NftChain): ForeignDrop | undefined {
  const hooks: Readonly<Record<number, ForeignHook>> = { 1: 'input', 2: 'forward' };
  const hook = hooks[chain.hook?.hooknum ?? -1];
  const family = familyNames[chain.nfgenFamily];
  const { table = '', name = '' } = chain;
  if (hook === undefined || family === undefined) return undefined;
  return { hook, chain: `${family} ${table} ${name}`, family: chain.nfgenFamily, table, name };
}

/** The rules of a hook in nft's language, without chain and comment. */
function acceptRules(hook: ForeignHook, settings: DatapathSettings): readonly string[] {
  if (hook === 'input') return [`udp dport ${settings.vxlanPort} counter accept`];
  return podLinkPatterns(settings).flatMap((pattern) => [
    `iifname "${pattern}" counter accept`,
    `oifname "${pattern}" counter accept`,
  ]);
}

function podLinkPatterns(settings: DatapathSettings): readonly string[] {
  return [`${settings.podLinkPrefix}*`];
}

export interface ForeignOutcome {
  readonly findings: readonly Finding[];
  /** Rules added. */
  readonly writes: number;
}

/** Between two looks at legacy iptables, each of which starts a program. */
const legacyEveryMs = 30_000;

/** Keeps our rules in the chains that drop; remembers what legacy iptables said. */
export class ForeignFirewalls {
  readonly #io: KernelIo;
  readonly #settings: DatapathSettings;
  #legacyAtMs = Number.NEGATIVE_INFINITY;
  #legacyFindings: readonly Finding[] = [];
  /** What our rules say, by chain and handle. */
  readonly #known: KnownRules = new Map();
  /** Chains that took no rule of ours the last time. */
  #refused: ReadonlySet<string> = new Set();

  constructor(io: KernelIo, settings: DatapathSettings) {
    this.#io = io;
    this.#settings = settings;
  }

  /** `chains`: every foreign chain of nftables; `ranges`: the pods' ranges, CIDRs. */
  async open(chains: readonly NftChain[], ranges: readonly string[]): Promise<ForeignOutcome> {
    const native = await openForeignChains(this.#io, dropsIn(chains), this.#settings, this.#known);
    this.#refused = new Set(native.findings.map(({ subject }) => subject));
    const managed = await managedFirewall(this.#io, chains, ranges, this.#settings);
    let { writes } = native;
    if (performance.now() - this.#legacyAtMs > legacyEveryMs) {
      this.#legacyAtMs = performance.now();
      const legacy = await openLegacyChains(this.#io, this.#settings);
      writes += legacy.writes;
      this.#legacyFindings = legacy.findings;
    }
    return { findings: [...native.findings, ...managed, ...this.#legacyFindings], writes };
  }

  /** False where a chain of nftables drops and lacks a rule of ours, or somebody has altered one. */
  async isOpen(chains: readonly NftChain[]): Promise<boolean> {
    for (const drop of dropsIn(chains)) {
      if (this.#refused.has(drop.chain)) continue;
      if (!isWhole(await taggedRules(this.#io, drop), drop, this.#settings, this.#known)) return false;
    }
    return true;
  }

  /** Takes our rules out of every foreign base chain, whatever its policy now; resolves to their number. */
  async close(chains: readonly NftChain[], dryRun: boolean): Promise<number> {
    const commands: string[] = [];
    for (const chain of chains) {
      const place = placeOf(chain);
      if (place) commands.push(...removals(place, await taggedRules(this.#io, place)));
    }
    if (!dryRun && commands.length > 0) this.#io.nft.run(commands.join('\n'));
    const legacy = await openLegacyChains(this.#io, this.#settings, dryRun ? 'count' : 'remove');
    return commands.length + legacy.writes;
  }
}

/** The expressions of a rule without its counters, by chain and handle. */
type KnownRules = Map<string, string>;

function dropsIn(chains: readonly NftChain[]): readonly ForeignDrop[] {
  return chains.flatMap((chain) => (chain.policy === policyDrop ? (placeOf(chain) ?? []) : []));
}

/** Puts our rules where they are missing. A refusal is a finding, and the next round tries again. */
async function openForeignChains(
  io: KernelIo,
  drops: readonly ForeignDrop[],
  settings: DatapathSettings,
  known: KnownRules,
): Promise<ForeignOutcome> {
  const findings: Finding[] = [];
  let writes = 0;
  for (const drop of drops) {
    try {
      writes += await openChain(io, drop, settings, known);
    } catch (error) {
      const name = drop.hook === 'forward' ? 'forwardPolicyDrops' : 'inputPolicyDrops';
      const what = drop.hook === 'forward' ? 'pod traffic' : `UDP port ${settings.vxlanPort}`;
      const reason = toWeftError(error).message;
      const message = `chain ${drop.chain} drops ${what} by policy, and an accept rule cannot be added (${reason})`;
      findings.push({ name, subject: drop.chain, message });
    }
  }
  return { findings, writes };
}

async function openChain(
  io: KernelIo,
  drop: ForeignDrop,
  settings: DatapathSettings,
  known: KnownRules,
): Promise<number> {
  const wanted = acceptRules(drop.hook, settings);
  const present = await taggedRules(io, drop);
  if (isWhole(present, drop, settings, known)) {
    for (const rule of present) known.set(keyOf(drop, rule), codeOf(rule));
    return 0;
  }
  const lines = removals(drop, present);
  for (const rule of wanted) lines.push(`insert rule ${drop.chain} ${rule} comment "${tagOf(drop.hook, settings)}"`);
  io.nft.run(lines.join('\n'));
  for (const rule of await taggedRules(io, drop)) known.set(keyOf(drop, rule), codeOf(rule));
  return wanted.length;
}

/** Every rule of ours is there, of this port, and none says anything else than it did. */
function isWhole(
  present: readonly NftRule[],
  drop: ForeignDrop,
  settings: DatapathSettings,
  known: KnownRules,
): boolean {
  if (present.length !== acceptRules(drop.hook, settings).length) return false;
  return present.every((rule) => {
    const code = known.get(keyOf(drop, rule));
    return ourTag(rule) === tagOf(drop.hook, settings) && (code === undefined || code === codeOf(rule));
  });
}

function keyOf({ chain }: Pick<ForeignDrop, 'chain'>, { handle }: NftRule): string {
  return `${chain} ${handle}`;
}

/** NFTA_LIST_ELEM with NFTA_EXPR_NAME `counter`, whose values go on. */
function codeOf({ expressions = new Uint8Array() }: NftRule): string {
  const bytes = Buffer.from(expressions);
  const kept: string[] = [];
  for (let at = 0; at + 4 <= bytes.length;) {
    const length = bytes.readUInt16LE(at);
    const expression = bytes.subarray(at, at + length);
    if (!expression.includes('counter\0')) kept.push(expression.toString('hex'));
    at += Math.max(4, (length + 3) & ~3);
  }
  return kept.join(' ');
}

/** Commands that take these rules out of one chain. */
function removals({ chain }: Pick<ForeignDrop, 'chain'>, rules: readonly NftRule[]): string[] {
  return rules.map(({ handle }) => `delete rule ${chain} handle ${handle}`);
}

async function taggedRules(
  io: KernelIo,
  { family, table, name }: Omit<ForeignDrop, 'hook'>,
): Promise<readonly NftRule[]> {
  const rules = await io.netfilter.dumpAsync(dumpChainRules(family, table, name));
  return rules.filter((rule) => rule.table === table && rule.chain === name && ourTag(rule) !== undefined);
}

/** Undefined for a rule of somebody else, though it may mention the tag. */
function ourTag({ userdata, expressions }: NftRule): string | undefined {
  const text = commentOf(userdata) ?? matchComment(Buffer.from(expressions ?? new Uint8Array()));
  return text !== undefined && anyTag.test(text) ? text : undefined;
}

/** NFTA_MATCH_INFO of the match `comment`: 256 bytes that begin with the text (linux/netfilter/xt_comment.h). */
const matchInfo = Buffer.from([0x04, 0x01, 0x03, 0x00]);

function matchComment(expressions: Buffer): string | undefined {
  const name = expressions.indexOf('comment\0');
  const info = name < 0 ? -1 : expressions.indexOf(matchInfo, name);
  if (info < 0) return undefined;
  const text = expressions.subarray(info + matchInfo.length, info + matchInfo.length + 256);
  const end = text.indexOf(0);
  return text.subarray(0, end < 0 ? text.length : end).toString('utf8');
}

/** firewalld keeps its own accounts and removes what others add: only its own command helps. */
async function managedFirewall(
  io: KernelIo,
  chains: readonly NftChain[],
  ranges: readonly string[],
  settings: DatapathSettings,
): Promise<readonly Finding[]> {
  const table = chains.find((chain) => chain.table === 'firewalld' && chain.nfgenFamily === tableFamily.inet);
  if (!table) return [];
  const rules = await io.netfilter.dumpAsync(dumpChainRules(tableFamily.inet, 'firewalld', undefined));
  const missing = ranges.filter((range) => !range.includes(':') && !rules.some((rule) => mentions(rule, range)));
  if (missing.length === 0) return [];
  const sources = missing.map((range) => ` --add-source=${range}`).join('');
  const command = `firewall-cmd --permanent --zone=trusted${sources} && firewall-cmd --permanent --add-port=${settings.vxlanPort}/udp && firewall-cmd --reload`;
  return [
    {
      name: 'firewallManaged',
      subject: 'firewalld',
      message: `firewalld does not know the range of the pods: ${command}`,
    },
  ];
}

/** True where a rule compares something with the network address of the range. */
function mentions(rule: NftRule, range: string): boolean {
  const bytes = Buffer.from((range.split('/')[0] ?? '').split('.').map(Number));
  return Buffer.from(rule.expressions ?? new Uint8Array()).includes(bytes);
}

/** Runs a program in the namespace of `settings`; rejects when it fails or is not installed. */
async function run(settings: DatapathSettings, command: readonly string[]): Promise<string> {
  const [program = '', ...args] =
    settings.netnsPath === undefined ? command : ['nsenter', `--net=${settings.netnsPath}`, '--', ...command];
  return new Promise((resolve, reject) => {
    execFile(program, args, { encoding: 'utf8', timeout: 10_000 }, (error, stdout) =>
      error ? reject(error) : resolve(stdout),
    );
  });
}

const legacy = [
  { program: 'iptables-legacy', names: '/proc/net/ip_tables_names' },
  { program: 'ip6tables-legacy', names: '/proc/net/ip6_tables_names' },
] as const;

/** Whether legacy iptables, whose changes nobody is told of, has a filter table. */
export function legacyInUse(io: Pick<KernelIo, 'readFile'>): boolean {
  return legacy.some(({ names }) => hasFilterTable(io, names));
}

function hasFilterTable(io: Pick<KernelIo, 'readFile'>, names: string): boolean {
  return (io.readFile(names) ?? '').split('\n').includes('filter');
}

function legacyRules(hook: ForeignHook, settings: DatapathSettings): readonly (readonly string[])[] {
  const tag = ['-m', 'comment', '--comment', tagOf(hook, settings), '-j', 'ACCEPT'];
  if (hook === 'input') return [['INPUT', '-p', 'udp', '--dport', String(settings.vxlanPort), ...tag]];
  const pattern = `${settings.podLinkPrefix}+`;
  return [
    ['FORWARD', '-i', pattern, ...tag],
    ['FORWARD', '-o', pattern, ...tag],
  ];
}

function commentIn(line: string): string | undefined {
  return / --comment "?([^\s"]+)"? /.exec(line)?.[1];
}

function isOurLine(line: string): boolean {
  return anyTag.test(commentIn(line) ?? '');
}

/**
 * The same for legacy iptables, where its filter table is in use. Without the program nothing can be said: then nothing is.
 * `remove` takes our rules away instead, `count` only counts them.
 */
async function openLegacyChains(
  io: Pick<KernelIo, 'readFile'>,
  settings: DatapathSettings,
  purpose: 'open' | 'remove' | 'count' = 'open',
): Promise<ForeignOutcome> {
  const findings: Finding[] = [];
  let writes = 0;
  for (const { program, names } of legacy) {
    if (!hasFilterTable(io, names)) continue;
    const listed = await run(settings, [program, '-w', '5', '-S']).catch(() => undefined);
    if (listed === undefined) continue;
    for (const hook of ['forward', 'input'] as const) {
      const chain = hook.toUpperCase();
      const drops = listed.includes(`-P ${chain} DROP`);
      const ours = listed.split('\n').filter((line) => line.startsWith(`-A ${chain} `) && isOurLine(line));
      const rules = legacyRules(hook, settings);
      const right = ours.filter((line) => commentIn(line) === tagOf(hook, settings));
      const deletes = ours.map((line) => ['-D', ...line.slice('-A '.length).replaceAll('"', '').split(' ')]);
      const missing = drops && (right.length !== rules.length || ours.length !== right.length);
      const commands =
        purpose !== 'open' ? deletes : missing ? [...deletes, ...rules.map((rule) => ['-I', ...rule])] : [];
      for (const command of commands) {
        try {
          if (purpose !== 'count') await run(settings, [program, '-w', '5', ...command]);
          writes++;
        } catch (error) {
          const name = hook === 'forward' ? 'forwardPolicyDrops' : 'inputPolicyDrops';
          const message = `${program} ${chain} drops by policy, and an accept rule cannot be added (${toWeftError(error).message})`;
          findings.push({ name, subject: `${program} ${chain}`, message });
        }
      }
    }
  }
  return { findings, writes };
}
