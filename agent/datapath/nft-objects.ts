// Chains and rules of nftables over nfnetlink (linux/netfilter/nf_tables.h; NFTA_* names camel-cased): what is needed to
// recognise a loaded table and to see foreign drop policies. Read without libnftables on purpose: its listing walks
// everything that anybody loaded, and an object that it does not know ends the process by an assertion (nft 1.0.6).
import { AttributeSet, be32, be64, beS32, binary, nested, string } from '#agent/netlink/attributes.ts';
import type { WithUnknown } from '#agent/netlink/attributes.ts';
import { messageFlag, MessageFormat } from '#agent/netlink/message.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { nfnetlinkSubsystem } from '#agent/netlink/transaction.ts';
import type { NfgenHeader } from '#agent/netlink/transaction.ts';

const getTable = 1;
const getChain = 4;
const getRule = 7;
const getGen = 16;

export interface ChainHook extends WithUnknown {
  readonly hooknum?: number;
  readonly priority?: number;
}

export interface ChainAttributes extends WithUnknown {
  readonly table?: string;
  readonly name?: string;
  /** Only base chains have one. */
  readonly hook?: ChainHook;
  /** NF_DROP 0, NF_ACCEPT 1. */
  readonly policy?: number;
  readonly type?: string;
}

export type NftChain = NfgenHeader & ChainAttributes;

export interface RuleAttributes extends WithUnknown {
  readonly table?: string;
  readonly chain?: string;
  /** Type-length-value records of user space; nft keeps comments here. */
  readonly userdata?: Uint8Array;
  readonly handle?: bigint;
  /** The rule itself, undecoded. */
  readonly expressions?: Uint8Array;
}

export type NftRule = NfgenHeader & RuleAttributes;

const header = { nfgenFamily: [0, 'u8'], version: [1, 'u8'], resId: [2, 'u16'] } as const;

const chainFormat: MessageFormat<NfgenHeader, ChainAttributes> = new MessageFormat<NfgenHeader, ChainAttributes>(
  'nft chain',
  4,
  header,
  new AttributeSet<ChainAttributes>({
    table: [1, string],
    name: [3, string],
    hook: [4, nested(new AttributeSet<ChainHook>({ hooknum: [1, be32], priority: [2, beS32] }))],
    policy: [5, be32],
    type: [7, string],
  }),
);

export const ruleFormat: MessageFormat<NfgenHeader, RuleAttributes> = new MessageFormat<NfgenHeader, RuleAttributes>(
  'nft rule',
  4,
  header,
  new AttributeSet<RuleAttributes>({
    table: [1, string],
    chain: [2, string],
    handle: [3, be64],
    expressions: [4, binary],
    userdata: [7, binary],
  }),
);

export interface GenerationAttributes extends WithUnknown {
  /** Counts the transactions of the namespace. */
  readonly id?: number;
}

const generationFormat: MessageFormat<NfgenHeader, GenerationAttributes> = new MessageFormat<
  NfgenHeader,
  GenerationAttributes
>('nft generation', 4, header, new AttributeSet<GenerationAttributes>({ id: [1, be32] }));

export interface TableAttributes extends WithUnknown {
  readonly name?: string;
  readonly flags?: number;
  /** Of all tables that a namespace has had, only one has had it. */
  readonly handle?: bigint;
}

export type NftTable = NfgenHeader & TableAttributes;

/** NFT_TABLE_F_DORMANT: its chains are not asked. */
export const dormantFlag = 1;

const tableFormat: MessageFormat<NfgenHeader, TableAttributes> = new MessageFormat<NfgenHeader, TableAttributes>(
  'nft table',
  4,
  header,
  new AttributeSet<TableAttributes>({ name: [1, string], flags: [2, be32], handle: [4, be64] }),
);

/** Every table of every family. */
export function dumpTables(): NetlinkRequest<NftTable> {
  return dump('dumpTables', getTable, tableFormat, { nfgenFamily: 0 });
}

/** The number of the ruleset's present generation. */
export function getGeneration(): NetlinkRequest<NfgenHeader & GenerationAttributes> {
  const type = (nfnetlinkSubsystem.nftables << 8) | getGen;
  return { name: 'getGeneration', type, flags: 0, format: generationFormat, message: { nfgenFamily: 0 } };
}

function dump<Answer extends object>(
  name: string,
  type: number,
  format: NetlinkRequest<Answer>['format'],
  message: object,
): NetlinkRequest<Answer> {
  return { name, type: (nfnetlinkSubsystem.nftables << 8) | type, flags: messageFlag.dump, format, message };
}

/** Every chain of every family. */
export function dumpChains(): NetlinkRequest<NftChain> {
  return dump('dumpChains', getChain, chainFormat, { nfgenFamily: 0 });
}

/** The rules of one table, chain by chain in order. Nothing where there is no such table. */
export function dumpRules(nfgenFamily: number, table: string): NetlinkRequest<NftRule> {
  return dump('dumpRules', getRule, ruleFormat, { nfgenFamily, table });
}

/** The rules of one chain; without `chain` of the whole table. */
export function dumpChainRules(nfgenFamily: number, table: string, chain: string | undefined): NetlinkRequest<NftRule> {
  return dump('dumpChainRules', getRule, ruleFormat, { nfgenFamily, table, ...(chain === undefined ? {} : { chain }) });
}

/** NFTNL_UDATA_RULE_COMMENT (libnftnl/udata.h). */
const commentRecord = 0;

/** The comment among a rule's user data: records of type(1), length(1), value with a closing NUL. */
export function commentOf(userdata: Uint8Array | undefined): string | undefined {
  if (!userdata) return undefined;
  for (let at = 0; at + 2 <= userdata.length;) {
    const length = userdata[at + 1] ?? 0;
    if (userdata[at] === commentRecord) {
      const end = at + 2 + length;
      return Buffer.from(userdata.subarray(at + 2, end))
        .toString('utf8')
        .replace(/\0$/, '');
    }
    at += 2 + length;
  }
  return undefined;
}
