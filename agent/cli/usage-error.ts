// A command line that cannot be meant; exit code 2.

export class UsageError extends Error {}

/** Splits `--name value`, `--name=value` and what stands alone. Throws UsageError for an option that is not among `known`. */
export function splitOptions(
  argv: readonly string[],
  known: readonly string[],
): { readonly options: ReadonlyMap<string, string>; readonly rest: readonly string[] } {
  const options = new Map<string, string>();
  const rest: string[] = [];
  for (let at = 0; at < argv.length; at++) {
    const argument = argv[at] ?? '';
    if (!argument.startsWith('--')) {
      rest.push(argument);
      continue;
    }
    const [name = '', ...inline] = argument.split('=');
    if (!known.includes(name)) throw new UsageError(`unknown option ${name}; known: ${known.join(', ')}`);
    const value = inline.length > 0 ? inline.join('=') : argv[++at];
    if (value === undefined) throw new UsageError(`option ${name} needs a value`);
    if (options.has(name)) throw new UsageError(`option ${name} is given twice`);
    options.set(name, value);
  }
  return { options, rest };
}
