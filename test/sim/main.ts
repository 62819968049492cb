// `npm run sim -- --seeds N --first-seed S --peers N [--trace]`: runs seeds one after the other. Stops at the first violation,
// printing its seed and the end of its trace. The last line is a summary with counters.
import { parseArgs } from 'node:util';
import { Counters, faultNames, operationNames } from './counters.ts';
import { runSeed } from './run.ts';

function count(text: string | undefined, fallback: number | undefined, option: string): number | undefined {
  if (text === undefined) return fallback;
  const value = Number(text);
  if (Number.isSafeInteger(value) && value >= 0) return value;
  console.error(`weft: ${option} must be a whole number, not "${text}"`);
  process.exit(2);
}

const { values } = parseArgs({
  options: {
    seeds: { type: 'string' },
    'first-seed': { type: 'string' },
    peers: { type: 'string' },
    trace: { type: 'boolean' },
  },
});
const seeds = count(values.seeds, 200, '--seeds') ?? 0;
const first = count(values['first-seed'], 1, '--first-seed') ?? 0;
const peers = count(values.peers, undefined, '--peers');

const totals = new Counters();
const startMs = performance.now();
let steps = 0;
let ran = 0;
let failed = 0;
for (let seed = first; seed < first + seeds; seed++) {
  const result = runSeed({ seed, ...(peers !== undefined && { peers }), keepTrace: values.trace === true });
  totals.add(result.counters);
  steps += result.steps;
  ran++;
  if (values.trace === true) console.log(result.trace.join('\n'));
  if (result.violation === '') continue;
  failed++;
  if (values.trace !== true) console.log(result.trace.slice(-60).join('\n'));
  console.log(result.end.join('\n'));
  console.log(`seed ${seed}: ${result.violation}`);
  console.log(
    `again: npm run sim -- --first-seed ${seed} --seeds 1${peers === undefined ? '' : ` --peers ${peers}`} --trace`,
  );
  break;
}
const seconds = ((performance.now() - startMs) / 1000).toFixed(1);
console.log(
  `${failed === 0 ? 'ok' : 'FAILED'}: ${ran} seeds from ${first}, ${steps} steps in ${seconds} s | operations: ${totals.text(operationNames)} | faults: ${totals.text(faultNames)}`,
);
process.exit(failed === 0 ? 0 : 1);
