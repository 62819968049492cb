// The log: pino underneath, one line for each thing that an operator cares for. JSON for machines; on a terminal a line for
// people, `12:03:04 info  registry answered  node=host1`.

import pino from 'pino';
import type { Logger } from 'pino';
import type { Config } from '#agent/config.ts';

export type { Logger } from 'pino';

export interface LogOptions extends Pick<Config, 'logLevel' | 'logFormat'> {
  /** Where lines go; by default standard error, which stays free of the output of commands. */
  readonly write?: (line: string) => void;
  readonly isTerminal?: boolean;
}

/** What waits for room where the log's disk is full; later lines are lost. */
const waitingBytes = 1 << 20;

/**
 * The root logger; parts get children with `part` set. Lines are written at once, so that none is lost in a crash. Where they cannot
 * be written (the disk is full, whoever read is gone) the agent goes on without them.
 */
export function createLogger(options: LogOptions): Logger {
  const { write } = options;
  const isTerminal = options.isTerminal ?? process.stderr.isTTY;
  const asText = options.logFormat === 'text' || (options.logFormat === 'auto' && isTerminal);
  const sink = write ?? writeToStderr();
  const settings = {
    level: options.logLevel,
    base: null,
    timestamp: pino.stdTimeFunctions.isoTime,
    formatters: { level: (label: string) => ({ level: label }) },
  };
  if (asText) return pino(settings, { write: (line: string) => sink(textLine(line)) });
  if (write !== undefined) return pino(settings, { write });
  const stderr = pino.destination({ dest: 2, sync: true, maxLength: waitingBytes });
  stderr.on('error', () => undefined);
  return pino(settings, stderr);
}

function writeToStderr(): (line: string) => void {
  process.stderr.on('error', () => undefined);
  return (line) => void process.stderr.write(line);
}

/** One JSON line as a line for people. What is no JSON passes as it is. */
export function textLine(jsonLine: string): string {
  let entry: Record<string, unknown>;
  try {
    entry = JSON.parse(jsonLine) as Record<string, unknown>;
  } catch {
    return jsonLine;
  }
  const { level, time, part, msg, err, ...rest } = entry;
  const clock = typeof time === 'string' ? time.slice(11, 19) : '--:--:--';
  const words = [clock, text(level).padEnd(5), part === undefined ? '' : `${text(part)}:`, text(msg)];
  const fields = Object.entries(rest).map(([key, value]) => `${key}=${text(value)}`);
  const line = [...words, ...(fields.length > 0 ? [` ${fields.join(' ')}`] : [])]
    .filter((word) => word !== '')
    .join(' ');
  return `${line}${errorText(err)}\n`;
}

function text(value: unknown): string {
  if (value === undefined) return '';
  return typeof value === 'string' ? value : JSON.stringify(value);
}

function errorText(error: unknown): string {
  if (typeof error !== 'object' || error === null) return error === undefined ? '' : ` (${text(error)})`;
  const { message, stack } = error as { readonly message?: unknown; readonly stack?: unknown };
  return typeof stack === 'string' ? `\n    ${stack.replaceAll('\n', '\n    ')}` : ` (${text(message)})`;
}
