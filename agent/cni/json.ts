// Helpers of the parsers of what comes on stdin: each names the place of what it refuses.

import { WeftError } from '#agent/errors.ts';

export type JsonObject = Readonly<Record<string, unknown>>;

/** CNI's `dns`, as configuration and in results. */
export interface Dns {
  readonly nameservers?: readonly string[];
  readonly domain?: string;
  readonly search?: readonly string[];
  readonly options?: readonly string[];
}

export function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/**
 * The value with each key's first letter in lower case, at every depth. go-cni, and with it containerd and nerdctl, sends the capabilities'
 * values under the names of its Go fields (`HostPort`); Go's decoder, for which they are meant, does not mind.
 */
export function withGoNames(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(withGoNames);
  if (!isObject(value)) return value;
  const named: Record<string, unknown> = {};
  for (const [key, item] of Object.entries(value)) {
    const name = key.charAt(0).toLowerCase() + key.slice(1);
    if (name === key || !Object.hasOwn(value, name)) named[name] = withGoNames(item);
  }
  return named;
}

/** Throws WeftError('invalidConfig'). */
export function objects(value: unknown, where: string): readonly JsonObject[] {
  if (!Array.isArray(value) || !value.every((item) => isObject(item)))
    throw invalid(where, `${where} is not a list of objects`);
  return value;
}

export function isStringList(value: unknown): value is readonly string[] {
  return Array.isArray(value) && value.every((item) => typeof item === 'string');
}

/** Throws WeftError('invalidConfig'). */
export function stringList(value: unknown, where: string): readonly string[] {
  if (!isStringList(value)) throw invalid(where, `${where} is not a list of strings`);
  return value;
}

/** Throws WeftError('invalidConfig'). */
export function string(value: unknown, where: string): string {
  if (typeof value !== 'string') throw invalid(where, `${where} is not a string`);
  return value;
}

/** The value as JSON, shortened, for a message. */
export function quote(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 80 ? `${text.slice(0, 79)}…` : text;
}

export function invalid(field: string, message: string): WeftError {
  return new WeftError('invalidConfig', message, { details: field });
}

export function unsupported(what: string, field: string): WeftError {
  return new WeftError('unsupportedField', `the network configuration has ${what}, which weft does not support`, {
    details: field,
  });
}
