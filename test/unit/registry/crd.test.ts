// The CRDs and the core must name the same fields: what the core writes, the API server keeps; what it prunes, the core never
// writes. (That the API server enforces the schema is tested against a real one, test/e2e/registry.test.ts.)

import { readFile } from 'node:fs/promises';
import { loadAllYaml } from '@kubernetes/client-node';
import { Ajv } from 'ajv';
import { describe, expect, it } from 'vitest';
import { parseCidr, type Cidr } from '../../../ipam-peer/cidr.ts';
import {
  formatPeer,
  formatUniverse,
  grantsLimit,
  parsePeer,
  parseUniverse,
  recordLimitBytes,
  type PeerRecord,
  type UniverseRecord,
} from '../../../ipam-peer/records.ts';

interface Schema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly maxItems?: number;
  readonly maxLength?: number;
}

interface Crd {
  readonly metadata: { readonly name: string };
  readonly spec: {
    readonly names: { readonly shortNames: readonly string[] };
    readonly versions: readonly { readonly schema: { readonly openAPIV3Schema: Schema } }[];
  };
}

const crds = loadAllYaml(await readFile(new URL('../../../deploy/base/crd.yaml', import.meta.url), 'utf8')) as Crd[];
const cidr = (text: string): Cidr => parseCidr(text) ?? expect.unreachable(text);
const ref = { name: 'host2.1a2b3c4d', uid: '3f0c9a52-0000-4000-8000-000000000002' };

/** Every field that there is, set. */
const peer: PeerRecord = {
  universe: 'blue',
  node: ref,
  seq: 7,
  seeded: true,
  blocks: [{ cidr: cidr('10.32.0.0/13'), via: { ...ref, id: 3 }, spare: true, quarantine: true }],
  granting: [{ id: 4, cidr: cidr('10.40.0.0/14'), to: ref }],
  wants: { 4: ref, 6: ref },
  pulls: { from: ref, cidr: cidr('10.48.0.0/14') },
  heir: ref,
  trail: [ref],
  removed: true,
  was: ['3f0c9a52-0000-4000-8000-000000000001'],
  suspect: true,
  underlay: ['192.0.2.1'],
  overlay: ['10.32.0.1'],
  free: { 4: 4096, 6: 2 ** 79 },
  extra: {},
};
const universe: UniverseRecord = {
  ranges: [cidr('10.32.0.0/12')],
  reserved: [cidr('10.43.0.0/16')],
  namespaces: ['team-a'],
  founder: ref,
  extra: {},
};

function schemaOf(name: string): Schema {
  const crd = crds.find(({ metadata }) => metadata.name === `${name}.weft.network`);
  return crd?.spec.versions[0]?.schema.openAPIV3Schema.properties?.['spec'] ?? expect.unreachable(`no CRD ${name}`);
}

/** Paths of all fields, `blocks[].via.uid`. */
function schemaFields(schema: Schema, at = ''): readonly string[] {
  if (schema.items !== undefined) return schemaFields(schema.items, `${at}[]`);
  if (schema.properties === undefined) return [at];
  return Object.entries(schema.properties).flatMap(([name, inner]) =>
    schemaFields(inner, at === '' ? name : `${at}.${name}`),
  );
}

function valueFields(value: unknown, at = ''): readonly string[] {
  if (Array.isArray(value)) return valueFields(value[0], `${at}[]`);
  if (typeof value !== 'object' || value === null) return [at];
  return Object.entries(value).flatMap(([name, inner]) => valueFields(inner, at === '' ? name : `${at}.${name}`));
}

/** The longest value that the schema admits, bytes of JSON, blocks without `via` beyond `settledFrom`. */
function largest(schema: Schema): number {
  if (schema.items !== undefined) return (schema.maxItems ?? Infinity) * (largest(schema.items) + 1) + 2;
  if (schema.properties !== undefined) {
    const fields = Object.entries(schema.properties);
    return fields.reduce((sum, [name, inner]) => sum + name.length + 4 + largest(inner), 2);
  }
  if (schema.type === 'string') return (schema.maxLength ?? Infinity) + 2;
  return schema.type === 'boolean' ? 5 : 16;
}

describe.for([
  ['peers', formatPeer(peer), parsePeer],
  ['universes', formatUniverse(universe), parseUniverse],
] as const)('the CRD %s', ([name, value, parse]) => {
  it('has the fields of the core, no more and no less', () => {
    expect(schemaFields(schemaOf(name)).toSorted()).toEqual(valueFields(value).toSorted());
  });

  it('admits what the core writes, and the core reads it', () => {
    const ajv = new Ajv({ strict: false, logger: false });
    expect(ajv.validate(schemaOf(name), value), ajv.errorsText()).toBe(true);
    expect(parse(value)).toMatchObject({ ok: true });
  });

  it('has a bound on every list and every text', () => {
    expect(largest(schemaOf(name))).toBeLessThan(Infinity);
  });
});

it('keeps a peer below its hard limit, whatever is written by hand', () => {
  const schema = schemaOf('peers');
  const block = schema.properties?.['blocks'] as Schema;
  const via = block.items?.properties?.['via'] as Schema;
  // A rule of the CRD admits `via` on 64 of the blocks only.
  const withoutVia = ((block.maxItems ?? Infinity) - 64) * (largest(via) + 'via'.length + 4);
  expect(largest(schema) - withoutVia).toBeLessThan(recordLimitBytes);
  expect(schema.properties?.['granting']?.maxItems).toBe(grantsLimit);
});

it('has the short names that the documentation uses', () => {
  expect(crds.map(({ spec }) => spec.names.shortNames)).toEqual([['weftuniverse'], ['weftpeers']]);
});
