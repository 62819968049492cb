// A node's three PEM files: what is not its own, or damaged, is told by its path before anything is opened.

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { createKeys, type NodeKeys } from '#agent/registry/peers/keys.ts';
import { readTlsFiles } from '#agent/registry/peers/tls.ts';

let directory: string;
let one: NodeKeys;
let other: NodeKeys;

beforeAll(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-tls-'));
  const keys = await createKeys(directory, [
    { name: 'host1', addresses: ['127.0.0.1'] },
    { name: 'host2', addresses: ['127.0.0.2'] },
  ]);
  [one, other] = keys as [NodeKeys, NodeKeys];
});
afterAll(async () => await rm(directory, { recursive: true, force: true }));

describe('the TLS files of a node', () => {
  it('are read when they are its own', async () => {
    expect((await readTlsFiles(one, 'host1')).cert).toContain('BEGIN CERTIFICATE');
  });

  it('are refused when they are another node’s', async () => {
    await expect(readTlsFiles(other, 'host1')).rejects.toThrow(
      `TLS file ${other.cert}: it is the certificate of host2, and this node is host1`,
    );
    await expect(readTlsFiles({ ...one, key: other.key }, 'host1')).rejects.toThrow(
      `TLS file ${other.key}: it is not the key of ${one.cert}`,
    );
  });

  it.each(['ca', 'cert', 'key'] as const)('are refused by the path when the %s is cut off', async (which) => {
    const path = join(directory, `cut-${which}.pem`);
    await writeFile(path, '-----BEGIN CERTIFICATE-----\nMIIB');
    await expect(readTlsFiles({ ...one, [which]: path }, 'host1')).rejects.toThrow(`TLS file ${path}: damaged (`);
  });
});
