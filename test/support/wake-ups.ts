// How often a process was woken up: unlike CPU time it does not depend on what else the machine does.

import { readdir, readFile } from 'node:fs/promises';

/** Voluntary context switches of all its threads that are there now, since they began. */
export async function wakeUpsOf(pid: number): Promise<number> {
  let sum = 0;
  for (const thread of await readdir(`/proc/${pid}/task`)) {
    // A thread may end meanwhile.
    const status = await readFile(`/proc/${pid}/task/${thread}/status`, 'utf8').catch(() => '');
    sum += Number(/^voluntary_ctxt_switches:\s+(\d+)/m.exec(status)?.[1] ?? 0);
  }
  return sum;
}
