// What the verbs are given from outside.

import type { Logger } from 'pino';

import type { Datapath } from '#agent/datapath/datapath.ts';
import type { Ipam } from '#agent/runtime/ipam.ts';

/** Identity of a path, and whether it is a network namespace. Throws a system error where there is nothing. */
export type NetnsInspector = (path: string) => { readonly isNetns: boolean; readonly inode: bigint };

export type CniLog = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'>;

export interface CniParts {
  readonly ipam: Ipam;
  readonly datapath: Datapath;
  readonly inspectNetns: NetnsInspector;
  readonly log: CniLog;
}

/** `ENOENT` and the like, of Node's system errors and of netlink's; '' for anything else. */
export function errnoOf(error: unknown): string {
  if (typeof error !== 'object' || error === null) return '';
  if ('errorName' in error && typeof error.errorName === 'string') return error.errorName;
  return 'code' in error && typeof error.code === 'string' ? error.code : '';
}
