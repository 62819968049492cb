// The three PEM files of a node, as node:tls takes them.

import { createPrivateKey, X509Certificate } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { WeftError } from '#agent/errors.ts';

/** Paths of PEM files: the authority's certificate, the node's certificate (common name: the node's name) and its key. */
export interface TlsPaths {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

export interface TlsFiles {
  readonly ca: string;
  readonly cert: string;
  readonly key: string;
}

/** Throws WeftError('invalidSetting') that names the file, also where the certificate is not that of node `self`, if that is told. */
export async function readTlsFiles(paths: TlsPaths, self?: string): Promise<TlsFiles> {
  const [ca, cert, key] = await Promise.all([readPem(paths.ca), readPem(paths.cert), readPem(paths.key)]);
  const wrong = (path: string, why: string, cause?: unknown): WeftError =>
    new WeftError('invalidSetting', `TLS file ${path}: ${why}`, { details: path, cause });
  const parse = <T>(path: string, read: () => T): T => {
    try {
      return read();
    } catch (cause) {
      throw wrong(path, `damaged (${(cause as Error).message})`, cause);
    }
  };
  parse(paths.ca, () => new X509Certificate(ca));
  const certificate = parse(paths.cert, () => new X509Certificate(cert));
  const privateKey = parse(paths.key, () => createPrivateKey(key));
  const name: unknown = certificate.toLegacyObject().subject?.CN;
  if (self !== undefined && name !== self) {
    throw wrong(paths.cert, `it is the certificate of ${String(name)}, and this node is ${self}`);
  }
  if (!certificate.checkPrivateKey(privateKey)) throw wrong(paths.key, `it is not the key of ${paths.cert}`);
  return { ca, cert, key };
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new WeftError('invalidSetting', `TLS file ${path}: ${(cause as Error).message}`, { details: path, cause });
  }
}
