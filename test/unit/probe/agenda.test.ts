// Who is due comes in order of time, whatever the order in which times were given; against a sorted list.
import fc from 'fast-check';
import { expect, it } from 'vitest';

import { Agenda } from '#agent/probe/agenda.ts';

interface Visited {
  readonly name: number;
  nextAtMs: number;
}

it('gives who is due, longest first, each once, and nobody who has gone', () => {
  const step = fc.record({ who: fc.nat(20), atMs: fc.nat(30), goes: fc.boolean() });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 200 }), fc.nat(30), fc.nat(25), (steps, nowMs, most) => {
      const visited = Array.from({ length: 21 }, (_, name): Visited => ({ name, nextAtMs: Infinity }));
      const gone = new Set<Visited>();
      const agenda = new Agenda<Visited>((one) => !gone.has(one));
      for (const { who, atMs, goes } of steps) {
        const one = visited[who] as Visited;
        if (one.nextAtMs !== atMs) agenda.put(one, atMs);
        if (goes && atMs % 7 === 0) gone.add(one);
      }
      const left = visited.filter((one) => !gone.has(one) && one.nextAtMs !== Infinity);
      expect(agenda.nextAtMs).toBe(Math.min(Infinity, ...left.map(({ nextAtMs }) => nextAtMs)));
      const dueAt = new Map(left.flatMap((one) => (one.nextAtMs <= nowMs ? [[one, one.nextAtMs] as const] : [])));
      const taken = agenda.take(nowMs, most);
      expect(new Set(taken).size).toBe(taken.length);
      const inOrder = [...dueAt.values()].toSorted((a, b) => a - b).slice(0, most);
      expect(taken.map((one) => dueAt.get(one))).toEqual(inOrder);
    }),
  );
});
