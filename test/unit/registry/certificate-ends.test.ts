// Certificates that end are told in time, and `weft init` makes them anew without two halves of the nodes that do not believe each other.
import { createPrivateKey, createPublicKey, X509Certificate } from 'node:crypto';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';

import { certificateConditions, readCertificateEnds } from '#agent/registry/peers/certificate-ends.ts';
import { certificateProblem, createKeys, type NodeKeys } from '#agent/registry/peers/keys.ts';
import { issueCertificate } from '#agent/registry/peers/x509.ts';

const dayMs = 24 * 60 * 60 * 1000;
const nodes = ['host1', 'host2'].map((name) => ({ name, addresses: ['127.0.0.1'] }));
let directory: string;

beforeEach(async () => {
  directory = await mkdtemp(join(tmpdir(), 'weft-ends-'));
});
afterEach(async () => await rm(directory, { recursive: true, force: true }));

const read = async (path: string): Promise<string> => await readFile(path, 'utf8');

/** Puts a certificate of the same key in the place of the one there. */
async function replace(path: string, keyPath: string, commonName: string, endsInDays: number): Promise<void> {
  const [key, signer] = [await read(keyPath), await read(join(directory, 'ca-key.pem'))];
  const request = {
    commonName,
    publicKey: createPublicKey(key),
    notBefore: new Date(Date.now() - 400 * dayMs),
    notAfter: new Date(Date.now() + endsInDays * dayMs),
    names: keyPath.endsWith('ca-key.pem') ? undefined : [commonName],
  };
  await writeFile(path, issueCertificate(request, { commonName: 'weft peers', privateKey: createPrivateKey(signer) }));
}

async function contents({ name, ca, cert, key }: NodeKeys): Promise<Parameters<typeof certificateProblem>[0]> {
  return { name, ca: await read(ca), cert: await read(cert), key: await read(key) };
}

describe('the finding', () => {
  it.each([
    [100, []],
    [61, []],
    [59.5, [/node\.pem ends on \d{4}-\d\d-\d\d, in 59 days$/]],
    [0.5, [/node\.pem ends on \d{4}-\d\d-\d\d, in 0 days$/]],
    [-3, [/node\.pem has ended on \d{4}-\d\d-\d\d$/]],
  ] as const)('with %d days left', async (days, messages) => {
    const [one] = await createKeys(directory, nodes);
    if (one === undefined) throw new Error('no keys');
    await replace(one.cert, one.key, 'host1', days);
    const found = certificateConditions(await readCertificateEnds(one), Date.now());
    expect(found.map(({ name, subject }) => [name, subject])).toEqual(
      messages.map(() => ['certificateEnds', one.cert]),
    );
    for (const [at, message] of messages.entries()) expect(found[at]?.message).toMatch(message);
  });

  it('is none about files that cannot be read', async () => {
    await writeFile(join(directory, 'cut.pem'), '-----BEGIN CERTIFICATE-----\nMIIB');
    expect(await readCertificateEnds({ ca: join(directory, 'none.pem'), cert: join(directory, 'cut.pem') })).toEqual(
      [],
    );
  });
});

describe('keys that are asked for again', () => {
  it('are the same while nothing ends', async () => {
    const before = await Promise.all((await createKeys(directory, nodes)).map(contents));
    expect(await Promise.all((await createKeys(directory, nodes)).map(contents))).toEqual(before);
  });

  it.each([80, -1])('a node’s certificate that ends in %d days is made anew, the others stay', async (days) => {
    const [one, two] = await createKeys(directory, nodes);
    if (one === undefined || two === undefined) throw new Error('no keys');
    const other = await contents(two);
    await replace(one.cert, one.key, 'host1', days);
    await createKeys(directory, nodes);
    const made = await contents(one);
    expect(certificateProblem(made)).toBe('');
    expect(new X509Certificate(made.cert).validToDate.getTime()).toBeGreaterThan(Date.now() + 3000 * dayMs);
    expect(await contents(two)).toEqual(other);
  });

  it('an authority that ends keeps its key: certificates of before and after are good with both', async () => {
    const [one, two] = await createKeys(directory, nodes);
    if (one === undefined || two === undefined) throw new Error('no keys');
    await replace(join(directory, 'ca.pem'), join(directory, 'ca-key.pem'), 'weft peers', 20);
    const before = { ...(await contents(two)), ca: await read(join(directory, 'ca.pem')) };
    await replace(one.cert, one.key, 'host1', 20);
    await createKeys(directory, nodes);
    const made = await contents(one);
    expect(new X509Certificate(made.ca).validToDate.getTime()).toBeGreaterThan(Date.now() + 3000 * dayMs);
    expect(certificateProblem({ ...made, ca: before.ca })).toBe('');
    expect(certificateProblem({ ...before, ca: made.ca })).toBe('');
  });
});
