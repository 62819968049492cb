// `npm run sim -- --seeds N --first-seed S --peers N [--trace]`: runs seeds one after the other. Stops at the first violation,
// printing its seed and the end of its trace. The last line is a summary with counters.
import { readOptions, wholeNumber } from '#test/support/options.ts';
import { Counters, faultNames, operationNames } from './counters.ts';
import { runSeed } from './run.ts';

const usage = 'npm run sim -- [--seeds N] [--first-seed S] [--peers N] [--trace]';
const values = readOptions(
  {
    seeds: { type: 'string' },
    'first-seed': { type: 'string' },
    peers: { type: 'string' },
    trace: { type: 'boolean' },
  },
  usage,
);
const seeds = wholeNumber('--seeds', values.seeds, 200, usage, 1);
const first = wholeNumber('--first-seed', values['first-seed'], 1, usage);
const peers = wholeNumber('--peers', values.peers, undefined, usage, 1);

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
