// Keys for the `peers` registry in one call: an authority, and for each node its certificate and key, in a folder that can be
// copied to the node as it is (the agent's settings tlsCa, tlsCert, tlsKey). Files are 0600, folders 0700. What is there stays:
// a second call adds the nodes that are new, and certificates in the place of those that end soon. The authority keeps its key then, so
// nodes that have its older certificate and nodes that have the newer one believe each other.

import { createPrivateKey, createPublicKey, generateKeyPairSync, X509Certificate, type KeyObject } from 'node:crypto';
import { mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { readIfThere, writeDurably } from '#agent/discovery/durable-file.ts';
import { WeftError } from '#agent/errors.ts';
import type { TlsPaths } from '#agent/registry/peers/tls.ts';
import { issueCertificate, type Issuer } from '#agent/registry/peers/x509.ts';

export interface KeyNode {
  readonly name: string;
  /** Plain addresses; only so that other TLS tools accept the certificate: voters are told apart by name. */
  readonly addresses: readonly string[];
}

export interface NodeKeys extends TlsPaths {
  readonly name: string;
}

const dayMs = 24 * 60 * 60 * 1000;
const validDays = 3650;
/** What ends sooner is made anew. Longer than the finding `certificateEnds` looks ahead. */
const renewDays = 90;

/**
 * Writes `ca.pem`, `ca-key.pem` and for each node `<name>/{ca,node,node-key}.pem` below `directory`; answers the paths in the
 * order of `nodes`. Valid from a day ago (skewed clocks) for ten years. Throws WeftError('store').
 */
export async function createKeys(directory: string, nodes: readonly KeyNode[]): Promise<readonly NodeKeys[]> {
  try {
    await mkdir(directory, { recursive: true, mode: 0o700 });
    const authority = await readOrMakeAuthority(directory);
    const keys: NodeKeys[] = [];
    for (const node of nodes) keys.push(await readOrMakeNode(join(directory, node.name), node, authority));
    return keys;
  } catch (cause) {
    throw new WeftError('store', `keys in ${directory}: ${(cause as Error).message}`, { details: directory, cause });
  }
}

interface Authority extends Issuer {
  readonly pem: string;
}

async function readOrMakeAuthority(directory: string): Promise<Authority> {
  const paths = { cert: join(directory, 'ca.pem'), key: join(directory, 'ca-key.pem') };
  const [pem, keyPem] = await Promise.all([readIfThere(paths.cert), readIfThere(paths.key)]);
  if (pem !== undefined && keyPem !== undefined) {
    const privateKey = createPrivateKey(keyPem);
    const certificate = new X509Certificate(pem);
    if (!certificate.checkPrivateKey(privateKey)) throw new Error('ca.pem and ca-key.pem do not belong together');
    const issuer = { commonName: certificate.subject.replace(/^CN=/, ''), privateKey };
    return endsSoon(certificate) ? await certify(issuer, paths.cert) : { ...issuer, pem };
  }
  if (pem !== undefined) throw new Error('ca.pem is there, ca-key.pem is not: nothing can be signed');
  const { privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  // The key first: a certificate without its key could not be completed by a second call.
  await writeDurably(paths.key, pkcs8(privateKey));
  return await certify({ commonName: 'weft peers', privateKey }, paths.cert);
}

/** The authority's word for itself. */
async function certify(issuer: Issuer, path: string): Promise<Authority> {
  const publicKey = createPublicKey(issuer.privateKey);
  const pem = issueCertificate({ commonName: issuer.commonName, publicKey, ...validity(), names: undefined }, issuer);
  await writeDurably(path, pem);
  return { ...issuer, pem };
}

function endsSoon({ validToDate }: X509Certificate): boolean {
  return validToDate.getTime() - Date.now() < renewDays * dayMs;
}

async function readOrMakeNode(folder: string, node: KeyNode, authority: Authority): Promise<NodeKeys> {
  const keys: NodeKeys = {
    name: node.name,
    ca: join(folder, 'ca.pem'),
    cert: join(folder, 'node.pem'),
    key: join(folder, 'node-key.pem'),
  };
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await writeDurably(keys.ca, authority.pem);
  const [cert = '', key = ''] = await Promise.all([readIfThere(keys.cert), readIfThere(keys.key)]);
  const isGood = certificateProblem({ name: node.name, ca: authority.pem, cert, key }) === '';
  if (isGood && !endsSoon(new X509Certificate(cert))) return keys;
  const { privateKey, publicKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
  const names = [node.name, ...node.addresses];
  await writeDurably(keys.key, pkcs8(privateKey));
  const issued = issueCertificate({ commonName: node.name, publicKey, ...validity(), names }, authority);
  await writeDurably(keys.cert, issued);
  return keys;
}

/** Why a node's certificate is of no use with this authority, whatever the time is; '' when it is. */
export function certificateProblem(given: {
  readonly name: string;
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}): string {
  try {
    const [authority, certificate] = [new X509Certificate(given.ca), new X509Certificate(given.cert)];
    const name = certificate.subject.replace(/^CN=/, '');
    if (name !== given.name) return `the certificate is of ${name}`;
    if (!certificate.verify(authority.publicKey)) return 'the certificate is not signed by the authority beside it';
    return certificate.checkPrivateKey(createPrivateKey(given.key)) ? '' : 'certificate and key do not belong together';
  } catch (error) {
    return `a certificate or key is damaged (${(error as Error).message})`;
  }
}

function validity(): { readonly notBefore: Date; readonly notAfter: Date } {
  const now = Date.now();
  return { notBefore: new Date(now - dayMs), notAfter: new Date(now + validDays * dayMs) };
}

function pkcs8(key: KeyObject): string {
  return key.export({ type: 'pkcs8', format: 'pem' }).toString();
}
