// What the verbs are given from outside.

import type { Logger } from 'pino';

import type { BridgedAddresses } from '#agent/datapath/bridged.ts';
import type { Datapath } from '#agent/datapath/datapath.ts';
import type { Segment } from '#agent/datapath/segment.ts';
import type { Ipam, OwedDels } from '#agent/runtime/ipam.ts';
import type { PortClaims } from './port-mappings.ts';

/** Identity of a path, and whether it is a network namespace. Throws a system error where there is nothing. */
export type NetnsInspector = (path: string) => { readonly isNetns: boolean; readonly inode: bigint };

/** A pod's network namespace, held open: whatever becomes of its path, this is the one that a call is about. */
export interface HeldNetns extends Disposable {
  readonly fd: number;
  readonly inode: bigint;
}

/** Undefined for whatever else the path is. Throws a system error where there is nothing. */
export type NetnsOpener = (path: string) => HeldNetns | undefined;

/** This process' own network namespace; an agent never changes it. */
export const ownNetnsPath = '/proc/self/ns/net';

/** The same inspector, which looks at the process' own namespace only once. */
export function rememberingOwnNetns(inspect: NetnsInspector): NetnsInspector {
  let own: ReturnType<NetnsInspector> | undefined;
  return (path) => (path === ownNetnsPath ? (own ??= inspect(path)) : inspect(path));
}

export type CniLog = Pick<Logger, 'debug' | 'info' | 'warn' | 'error'>;

export interface CniParts {
  readonly ipam: Ipam;
  readonly datapath: Datapath;
  readonly inspectNetns: NetnsInspector;
  readonly openNetns: NetnsOpener;
  readonly log: CniLog;
  /** Host routes to addresses on bridges of the reference plugin; absent: none are kept. */
  readonly bridged?: Pick<BridgedAddresses, 'sync'>;
  /** What other IPAM plugins could not be told yet. */
  readonly owed: OwedDels;
  /** Links of pods whose addresses a DHCP server gives; absent: there are none. */
  readonly segment?: Pick<Segment, 'isConfigured' | 'attach' | 'give' | 'mute' | 'detach' | 'faults'>;
}

/** What an ADD works with: the parts, and what the calls of one server share. */
export interface AddParts extends CniParts {
  readonly ports: PortClaims;
}

/** `ENOENT` and the like, of Node's system errors and of netlink's; '' for anything else. */
export function errnoOf(error: unknown): string {
  if (typeof error !== 'object' || error === null) return '';
  if ('errorName' in error && typeof error.errorName === 'string') return error.errorName;
  return 'code' in error && typeof error.code === 'string' ? error.code : '';
}
