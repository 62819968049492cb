// The lab's command line, checked before anything is touched.

export interface LabOptions {
  /** Print the matrix, clean up, exit 0 or 1, instead of staying up. */
  readonly once: boolean;
  readonly nodes: number;
  readonly pods: number;
  /** Pods have an IPv6 address too, and reach each other by it. */
  readonly ipv6: boolean;
}

export class UsageError extends Error {}

export const usage = `Usage: npm start -- [--once] [--nodes N] [--pods N] [--ipv6]

Makes hosts out of network namespaces, runs a Weft agent in each, starts pods through the real CNI plugin
and shows that they reach each other. Ctrl-C removes every trace.

  --once     print the result, clean up, exit 0 when every pod reached every other, else 1
  --nodes N  hosts, 1 to 16 (default 3)
  --pods N   pods in all, 0 to 64 (default two per host)
  --ipv6     pods with an IPv4 and an IPv6 address each; they are shown reaching each other by IPv6
`;

const maxNodes = 16;
const maxPods = 64;

/** Throws UsageError with what is allowed. `undefined`: help was asked for. */
export function parseOptions(argv: readonly string[]): LabOptions | undefined {
  let once = false;
  let ipv6 = false;
  let nodes = 3;
  let pods: number | undefined;
  for (let at = 0; at < argv.length; at++) {
    const [name = '', inline] = (argv[at] ?? '').split('=', 2);
    if (name === '--help' || name === '-h') return undefined;
    if (name === '--once' && inline === undefined) once = true;
    else if (name === '--nodes') nodes = count(name, inline ?? argv[++at], 1, maxNodes);
    else if (name === '--pods') pods = count(name, inline ?? argv[++at], 0, maxPods);
    else if (name === '--ipv6' && inline === undefined) ipv6 = true;
    else throw new UsageError(`unknown option ${JSON.stringify(argv[at])}\n\n${usage}`);
  }
  return { once, nodes, pods: pods ?? nodes * 2, ipv6 };
}

function count(name: string, text: string | undefined, least: number, most: number): number {
  const value = Number(text);
  if (text === undefined || !/^\d+$/.test(text) || value < least || value > most) {
    throw new UsageError(`${name} must be a whole number from ${least} to ${most}, not ${JSON.stringify(text ?? '')}`);
  }
  return value;
}
