// What a node keeps of the further pools: names, ranges and namespaces in one file, and a store for each. The stores count too where
// the file was lost: without the leases in them the links of running pods would be taken for left over ones.
import { existsSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readIfThere } from '#agent/discovery/durable-file.ts';
import { toWeftError, WeftError } from '#agent/errors.ts';
import { formatCidr } from '#ipam-peer/cidr.ts';
import type { Log } from './driver.ts';
import { openStore } from './store.ts';

export interface KnownPool {
  readonly name: string;
  readonly ranges: readonly string[];
  readonly namespaces: readonly string[];
}

/** Where the stores of further pools are: `<folder>/<name of the pool>/<file>`. */
export interface PoolStores {
  readonly folder: string;
  readonly file: string;
}

/** A missing or damaged file is an empty one. */
export async function loadKnownPools(path: string, log: Log): Promise<readonly KnownPool[]> {
  try {
    const text = await readIfThere(path);
    const known: unknown = text === undefined ? [] : JSON.parse(text);
    if (Array.isArray(known) && known.every((one) => isKnown(one))) return known;
    log.warn(`${path} is damaged; the pools are learnt anew from the registry`);
  } catch (error) {
    log.warn(`${path}: ${toWeftError(error).message}; the pools are learnt anew from the registry`);
  }
  return [];
}

function isKnown(value: unknown): value is KnownPool {
  const known = value as Partial<KnownPool> | null;
  const texts = (list: unknown): boolean => Array.isArray(list) && list.every((one) => typeof one === 'string');
  return typeof known?.name === 'string' && texts(known.ranges) && texts(known.namespaces);
}

/** Pools beyond those in `known` whose stores have leases. Throws WeftError('store'). */
export async function poolsWithLeases(
  { folder, file }: PoolStores,
  known: ReadonlySet<string>,
): Promise<readonly KnownPool[]> {
  const names = await namesIn(folder);
  return names.flatMap((name) => {
    const path = join(folder, name, file);
    if (known.has(name) || !existsSync(path)) return [];
    const store = openStore(path);
    try {
      const { leases, peer } = store.load();
      const ranges = (peer.universe?.ranges ?? []).map(formatCidr);
      return leases.length === 0 ? [] : [{ name, ranges, namespaces: [] }];
    } finally {
      store.close();
    }
  });
}

async function namesIn(folder: string): Promise<readonly string[]> {
  try {
    return await readdir(folder);
  } catch (cause) {
    if ((cause as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw new WeftError('store', `${folder}: ${(cause as Error).message}`, { details: folder, cause });
  }
}
