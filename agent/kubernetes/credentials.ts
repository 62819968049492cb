// Who we are to the API server and where it is. @kubernetes/client-node reads kubeconfigs, service accounts, token files and
// exec plugins; it is imported here only, because it costs 90 MB and a third of a second.

import type { RequestOptions } from 'node:https';
import { KubeConfig } from '@kubernetes/client-node';
import { WeftError } from '#agent/errors.ts';

export interface Credentials {
  /** `https://host:port`, without a trailing slash. */
  readonly server: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly ca: Buffer | undefined;
  readonly cert: Buffer | undefined;
  readonly key: Buffer | undefined;
  readonly servername: string | undefined;
  readonly rejectUnauthorized: boolean;
}

export interface CredentialOptions {
  /** Path of a kubeconfig; absent or '': the pod's service account. */
  readonly kubeConfig?: string;
  /** Overrides the address that the kubeconfig or KUBERNETES_SERVICE_HOST and _PORT name. */
  readonly apiServer?: string;
}

/** Reads everything from disk anew: tokens and certificates rotate. Throws WeftError('invalidSetting'). */
export async function readCredentials(options: CredentialOptions): Promise<Credentials> {
  try {
    const config = new KubeConfig();
    if (options.kubeConfig === undefined || options.kubeConfig === '') config.loadFromCluster();
    else config.loadFromFile(options.kubeConfig);
    const server = (options.apiServer ?? config.getCurrentCluster()?.server ?? '').replace(/\/+$/, '');
    if (!/^https:\/\/[^/]+$/.test(server) || server.includes('undefined')) {
      throw new Error(`no API server address (have "${server}"; is KUBERNETES_SERVICE_HOST set?)`);
    }
    const found: RequestOptions = {};
    await config.applyToHTTPSOptions(found);
    return {
      server,
      headers: textHeaders(found),
      ca: asBuffer(found.ca),
      cert: asBuffer(found.cert),
      key: asBuffer(found.key),
      servername: found.servername,
      rejectUnauthorized: found.rejectUnauthorized ?? true,
    };
  } catch (cause) {
    throw new WeftError('invalidSetting', `Kubernetes credentials: ${(cause as Error).message}`, { cause });
  }
}

function textHeaders(found: RequestOptions): Readonly<Record<string, string>> {
  const headers: Record<string, string> = {};
  for (const [name, value] of Object.entries(found.headers ?? {})) if (typeof value === 'string') headers[name] = value;
  if (typeof found.auth === 'string') headers['Authorization'] = `Basic ${Buffer.from(found.auth).toString('base64')}`;
  return headers;
}

function asBuffer(value: unknown): Buffer | undefined {
  return Buffer.isBuffer(value) ? value : undefined;
}
