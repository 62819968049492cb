// Options of the programs behind `npm run`: what cannot be meant ends with a line that says what can, and status 2.
import { type ParseArgsOptionsConfig, parseArgs } from 'node:util';

/** Ends the program over its command line. */
export function usageError(problem: string, usage: string): never {
  console.error(`weft: ${problem}\nUsage: ${usage}`);
  process.exit(2);
}

/** Values by name; `parseArgs` throws what only its caller's author can read. */
export function readOptions<const Options extends ParseArgsOptionsConfig>(
  options: Options,
  usage: string,
): ReturnType<typeof parseArgs<{ options: Options }>>['values'] {
  try {
    return parseArgs({ options }).values;
  } catch (error) {
    return usageError((error as Error).message.split('. ')[0] ?? '', usage);
  }
}

/** A whole number that is at least `least`; the fallback for an option that was not given. */
export function wholeNumber<Fallback>(
  option: string,
  text: string | undefined,
  fallback: Fallback,
  usage: string,
  least = 0,
): number | Fallback {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (/^\d+$/.test(text) && Number.isSafeInteger(value) && value >= least) return value;
  return usageError(`${option} must be a whole number from ${least}, not "${text}"`, usage);
}
