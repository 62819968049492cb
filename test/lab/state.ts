// What a lab has made, written down before it is made, so that the next start can remove exactly that, whatever killed its
// predecessor. One lab at a time per directory.

import { readFileSync } from 'node:fs';
import { mkdir, readFile, readlink, rename, rm, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { join } from 'node:path';

export interface LabState {
  /** Random mark that every process of the lab carries in its environment. */
  readonly mark: string;
  readonly pid: number;
  /** Start of that process in clock ticks since boot, which tells it from a later one with the same pid. */
  readonly startTicks: string;
  readonly bootId: string;
  readonly pidNamespace: string;
  /** Network namespaces by name, under /run/netns. */
  readonly netns: readonly string[];
  /** True when /run/netns was no mount point before (iproute2 makes it one). */
  readonly madeNetnsMount: boolean;
}

/** Files of the running lab; LAB_OF_WEFT_DIR moves it, for tests beside a person's lab. */
export const labDirectory: string = process.env['LAB_OF_WEFT_DIR'] ?? '/run/weft-lab';
const stateFile = join(labDirectory, 'state.json');

/** A process' start. Undefined when it has ended, also where nobody reaps it, as the first process of a container may not. */
export function startTicksOf(pid: number): string | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8');
    // The name in parentheses may hold anything, blanks and parentheses too.
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    return fields[0] === 'Z' ? undefined : fields[19];
  } catch {
    return undefined;
  }
}

export async function ownIdentity(): Promise<Pick<LabState, 'pid' | 'startTicks' | 'bootId' | 'pidNamespace'>> {
  const { pid } = process;
  const bootId = (await readFile('/proc/sys/kernel/random/boot_id', 'utf8')).trim();
  const pidNamespace = await readlink('/proc/self/ns/pid');
  return { pid, startTicks: startTicksOf(pid) ?? '', bootId, pidNamespace };
}

/**
 * Takes the lab's place, which the kernel keeps until this process ends, however it does: a name of a socket, in no file. False
 * when another lab has it. Looking into the state alone would let two that start at once both find nothing.
 */
export async function claimPlace(): Promise<boolean> {
  const server = createServer((connection) => connection.destroy());
  return new Promise((resolve, reject) => {
    server.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EADDRINUSE' ? resolve(false) : reject(error),
    );
    server.listen(`\0${labDirectory}`, () => {
      server.unref();
      resolve(true);
    });
  });
}

/** What a predecessor left, if anything. */
export async function readState(): Promise<LabState | undefined> {
  let text: string;
  try {
    text = await readFile(stateFile, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
  try {
    return JSON.parse(text) as LabState;
  } catch {
    throw new Error(`${stateFile} is damaged; remove ${labDirectory} by hand once no lab is left (ip netns list)`);
  }
}

/** Durable against the death of this process at any moment: the old or the new state is there, never half of one. */
export async function writeState(state: LabState): Promise<void> {
  try {
    await mkdir(labDirectory, { recursive: true, mode: 0o700 });
    await writeFile(`${stateFile}.new`, JSON.stringify(state, null, 2), { mode: 0o600 });
    await rename(`${stateFile}.new`, stateFile);
  } catch (error) {
    await forgetState();
    throw new Error(`cannot write to ${labDirectory}: ${(error as Error).message}`, { cause: error });
  }
}

/** The last thing that a cleanup does. */
export async function forgetState(): Promise<void> {
  await rm(labDirectory, { recursive: true, force: true });
}
