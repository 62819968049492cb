// What every engine asks of a record before it writes it.
import type { RecordValue } from './registry.ts';

/** A record's value as JSON, bytes of UTF-8. */
export const maxValueBytes: number = 64 * 1024;

const namePattern = /^[a-z0-9](?:[-a-z0-9.]*[a-z0-9])?$/;

export function isRecordName(name: string): boolean {
  return name.length <= 253 && namePattern.test(name);
}

/** Why such a record cannot be; undefined where it can. */
export function refusalOf(name: string, value: RecordValue): string | undefined {
  if (!isRecordName(name)) return `${JSON.stringify(name.slice(0, 300))} is not a DNS-1123 subdomain`;
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return 'the value is not an object';
  const bytes = Buffer.byteLength(JSON.stringify(value));
  return bytes > maxValueBytes ? `the value has ${bytes} bytes, at most ${maxValueBytes} are kept` : undefined;
}
