// Routing rules: rt-rule of the kernel's YNL specs (linux/fib_rules.h). A rule sends lookups to a table.

import { AttributeSet, ip, string, u32, type WithUnknown } from './attributes.ts';
import { createFlags, messageFlag, MessageFormat, type CreateOptions, type NetlinkRequest } from './message.ts';

const ruleMessage = { new: 32, delete: 33, get: 34 } as const;

/** FR_ACT_*. */
const ruleAction = { toTable: 1 } as const;

export interface RuleHeader {
  readonly family: number;
  readonly dstLen: number;
  readonly srcLen: number;
  readonly tos: number;
  /** Tables up to 255; others are in the attribute. */
  readonly tableId: number;
  readonly action: number;
  readonly flags: number;
}

export interface RuleAttributes extends WithUnknown {
  readonly dst?: string;
  readonly src?: string;
  readonly iifname?: string;
  readonly priority?: number;
  readonly table?: number;
  readonly oifname?: string;
}

export type Rule = RuleHeader & RuleAttributes;
export type RuleRequest = Partial<RuleHeader> & RuleAttributes;

const ruleFormat: MessageFormat<RuleHeader, RuleAttributes> = new MessageFormat<RuleHeader, RuleAttributes>(
  'rule',
  12,
  {
    family: [0, 'u8'],
    dstLen: [1, 'u8'],
    srcLen: [2, 'u8'],
    tos: [3, 'u8'],
    tableId: [4, 'u8'],
    action: [7, 'u8'],
    flags: [8, 'u32'],
  },
  new AttributeSet<RuleAttributes>({
    dst: [1, ip],
    src: [2, ip],
    iifname: [3, string],
    priority: [6, u32],
    table: [15, u32],
    oifname: [17, string],
  }),
);

/** RTM_NEWRULE; EEXIST where the same rule is there. */
export function newRule(rule: RuleRequest, options: CreateOptions = {}): NetlinkRequest<Rule> {
  const message = { action: ruleAction.toTable, ...rule };
  return { name: 'newRule', type: ruleMessage.new, flags: createFlags(options), format: ruleFormat, message };
}

/** RTM_DELRULE of the first rule that matches all that is given; ENOENT where none does. */
export function delRule(rule: RuleRequest): NetlinkRequest<Rule> {
  return { name: 'delRule', type: ruleMessage.delete, flags: 0, format: ruleFormat, message: rule };
}

/** All rules of one family. */
export function dumpRules(family: number): NetlinkRequest<Rule> {
  return { name: 'dumpRules', type: ruleMessage.get, flags: messageFlag.dump, format: ruleFormat, message: { family } };
}
