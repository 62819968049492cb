// The three PEM files of a node, as node:tls takes them.

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

/** Throws WeftError('invalidSetting') that names the file. */
export async function readTlsFiles(paths: TlsPaths): Promise<TlsFiles> {
  const [ca, cert, key] = await Promise.all([readPem(paths.ca), readPem(paths.cert), readPem(paths.key)]);
  return { ca, cert, key };
}

async function readPem(path: string): Promise<string> {
  try {
    return await readFile(path, 'utf8');
  } catch (cause) {
    throw new WeftError('invalidSetting', `TLS file ${path}: ${(cause as Error).message}`, { details: path, cause });
  }
}
