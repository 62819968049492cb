// Is a history of one compare-and-swap register linearizable? Search for an order of the calls that respects their times and
// the register's meaning (Wing and Gong), remembering the states already tried. A call of unknown outcome may take effect at
// any time after it was made, or never.

import type { Call } from './caspaxos-world.ts';

/** undefined: linearizable. Otherwise the calls, for the report. */
export function findViolation(history: readonly Call[]): string | undefined {
  const calls = history
    .filter((call) => call.outcome !== 'noEffect')
    .filter((call) => !(call.outcome === 'unknown' && call.change === 'read'))
    .map((call) => (call.outcome === 'unknown' ? { ...call, answeredAt: Infinity } : call))
    .toSorted((a, b) => a.calledAt - b.calledAt);
  if (search(calls)) return undefined;
  return calls.map((call) => describeCall(call)).join('\n');
}

function search(calls: readonly Call[]): boolean {
  const tried = new Set<string>();
  const done = new Uint8Array(calls.length);
  const certain = calls.filter((call) => call.outcome !== 'unknown').length;

  const go = (content: number, certainDone: number): boolean => {
    if (certainDone === certain) return true;
    const state = `${content}|${done.join('')}`;
    if (tried.has(state)) return false;
    tried.add(state);
    // Only a call made before every open call's answer can come next.
    let horizon = Infinity;
    for (const [at, call] of calls.entries()) if (done[at] === 0) horizon = Math.min(horizon, call.answeredAt);
    for (const [at, call] of calls.entries()) {
      if (done[at] !== 0 || call.calledAt > horizon) continue;
      const next = effectOf(call, content);
      if (next === undefined) continue;
      done[at] = 1;
      if (go(next, certainDone + (call.outcome === 'unknown' ? 0 : 1))) return true;
      done[at] = 0;
    }
    return false;
  };
  return go(0, 0);
}

/** The register's content after the call (0: nothing), or undefined when the call cannot happen at this content. */
function effectOf(call: Call, content: number): number | undefined {
  switch (call.change) {
    case 'read':
      return call.found === content ? content : undefined;
    case 'create':
      if (call.outcome === 'conflict') return content === 0 ? undefined : content;
      return content === 0 && call.outcome !== 'notFound' ? call.writes : undefined;
    case 'update':
    case 'delete':
      if (call.outcome === 'notFound') return content === 0 ? content : undefined;
      if (call.outcome === 'conflict') return content !== 0 && content !== call.expects ? content : undefined;
      return content === call.expects ? call.writes : undefined;
  }
}

function describeCall(call: Call): string {
  const { client, change, writes, expects, calledAt, answeredAt, outcome, found } = call;
  const what = `${change}${expects === 0 ? '' : ` ${expects}`}${writes === 0 ? '' : ` -> ${writes}`}`;
  return `${calledAt.toFixed(1)}..${answeredAt.toFixed(1)} c${client} ${what}: ${outcome} ${found}`;
}
