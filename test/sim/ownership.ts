// Effective owners of all addresses, kept up to date record by record: a write to one record changes what it owns and what those own
// from which it carries something, nothing else. So a world of thousands of peers is checked after each write as thoroughly as one of
// two. `matches` compares with the whole computation of the core's invariants.ts, which this must never drift from.
import {
  type Cidr,
  compareCidr,
  contains,
  formatCidr,
  formatCidrs,
  overlaps,
  sizeOf,
  subtract,
} from '#ipam-peer/cidr.ts';
import { effectiveOwners, type Owned, spaceOf, totalOf } from '#ipam-peer/invariants.ts';
import {
  isDeadSource,
  isIncarnation,
  isVia,
  type PeerRecord,
  type RecordRef,
  type UniverseRecord,
} from '#ipam-peer/records.ts';
import type { Known } from '#ipam-peer/state.ts';

type Records = ReadonlyMap<string, Known<PeerRecord>>;

export class Ownership {
  /** Sorted by address. */
  #sorted: Owned[] = [];
  readonly #byName = new Map<string, readonly Owned[]>();
  /** Names of the records that carry blocks of a dead record, by its name. */
  readonly #carriers = new Map<string, Set<string>>();
  readonly #sources = new Map<string, ReadonlySet<string>>();
  #universe: UniverseRecord | undefined;
  #space: readonly Cidr[] = [];
  #wanted = 0n;
  #total = 0n;

  /** Takes in the records of these names; answers whose space may have changed by it. */
  update(universe: UniverseRecord | undefined, records: Records, changed: Iterable<string>): ReadonlySet<string> {
    const names = new Set(changed);
    if (universe !== this.#universe) {
      this.#universe = universe;
      this.#space = spaceOf(universe);
      this.#wanted = totalOf(this.#space);
      for (const name of records.keys()) names.add(name);
    }
    const written = [...names];
    for (const name of written) {
      for (const source of this.#sources.get(name) ?? []) names.add(source);
      this.#noteSources(name, records.get(name)?.record);
      for (const source of this.#sources.get(name) ?? []) names.add(source);
    }
    for (const name of names) this.#put(name, this.#ownedBy(name, records));
    return names;
  }

  /** What the record of this name owns. */
  of(name: string): readonly Owned[] {
    return this.#byName.get(name) ?? [];
  }

  get owned(): readonly Owned[] {
    return this.#sorted;
  }

  /** Invariants 1 and 2, looked at where these names own something. Empty: all is well. */
  violations(names: Iterable<string>): readonly string[] {
    const problems: string[] = [];
    for (const name of names) {
      for (const one of this.of(name)) {
        const at = this.#indexOf(one.cidr);
        for (const other of [this.#sorted[at - 1], this.#sorted[at], this.#sorted[at + 1]]) {
          if (other === undefined || other === one || !overlaps(other.cidr, one.cidr)) continue;
          problems.push(
            `${formatCidr(one.cidr)} has two owners: ${one.owner.name} and, as ${formatCidr(other.cidr)}, ${other.owner.name}`,
          );
        }
        if (this.#universe?.founder === undefined) problems.push('space is owned in a universe that nobody founded');
        else if (!this.#space.some((block) => contains(block, one.cidr)))
          problems.push(`${name} owns ${formatCidr(one.cidr)}, which is not to be shared`);
      }
    }
    if (problems.length === 0 && this.#universe?.founder !== undefined && this.#wanted !== this.#total) {
      const owned = this.#sorted.map((one) => one.cidr);
      problems.push(`nobody owns ${formatCidrs(subtract(this.#space, owned))}`);
    }
    return problems;
  }

  /** False when the whole computation comes to something else. */
  matches(records: Records): boolean {
    const whole = effectiveOwners(this.#universe, [...records.values()]).map(describe);
    return whole.join('\n') === this.#sorted.map(describe).join('\n');
  }

  #noteSources(name: string, record: PeerRecord | undefined): void {
    for (const source of this.#sources.get(name) ?? []) this.#carriers.get(source)?.delete(name);
    const sources = new Set(record?.blocks.flatMap(({ via }) => via?.name ?? []));
    this.#sources.set(name, sources);
    for (const source of sources) {
      const carriers = this.#carriers.get(source) ?? new Set();
      this.#carriers.set(source, carriers.add(name));
    }
  }

  #ownedBy(name: string, records: Records): readonly Owned[] {
    const known = records.get(name);
    if (known === undefined) return [];
    const { record, stored } = known;
    const owner: RecordRef = { name, uid: stored.uid };
    const carrying = [...(this.#carriers.get(name) ?? [])].flatMap((one) => records.get(one) ?? []);
    const isInherited = (cidr: Cidr): boolean =>
      carrying.some((one) =>
        one.record.blocks.some((block) => isDeadSource(block.via, owner) && contains(block.cidr, cidr)),
      );
    const owned: Owned[] = [];
    if (!record.seeded && isIncarnation(this.#universe?.founder, owner, record.was)) {
      for (const cidr of this.#space) if (!isInherited(cidr)) owned.push({ cidr, owner, as: 'unseeded' });
    }
    for (const { cidr } of record.blocks) if (!isInherited(cidr)) owned.push({ cidr, owner, as: 'block' });
    for (const grant of record.granting) {
      const target = carrying.find((one) => isIncarnation(grant.to, one.stored, one.record.was));
      const taken = target?.record.blocks.some((block) => isVia(block.via, owner, grant.id, record.was));
      if (taken !== true && !isInherited(grant.cidr)) owned.push({ cidr: grant.cidr, owner, as: 'grant' });
    }
    return owned;
  }

  #put(name: string, owned: readonly Owned[]): void {
    for (const one of this.of(name)) {
      this.#total -= sizeOf(one.cidr);
      let at = this.#indexOf(one.cidr);
      while (this.#sorted[at] !== one) at++;
      this.#sorted.splice(at, 1);
    }
    this.#byName.set(name, owned);
    for (const one of owned) {
      this.#total += sizeOf(one.cidr);
      this.#sorted.splice(this.#indexOf(one.cidr), 0, one);
    }
  }

  /** Where the first block not below this one stands. */
  #indexOf(cidr: Cidr): number {
    let [low, high] = [0, this.#sorted.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      const there = this.#sorted[middle];
      if (there !== undefined && compareCidr(there.cidr, cidr) < 0) low = middle + 1;
      else high = middle;
    }
    return low;
  }
}

function describe({ cidr, owner, as }: Owned): string {
  return `${formatCidr(cidr)} ${owner.name} ${owner.uid} ${as}`;
}
