// What only the stock kernel has, in a virtual machine: the reference plugins `vlan` and `ipvlan` over Weft's addresses, and
// kube-proxy's mode ipvs. `npm run test:vm`.
import { beforeAll, describe, expect, it } from 'vitest';

import { ensureProgram } from '#test/e2e/cluster/programs.ts';
import { ensureShim } from '../../cni-shim/build.ts';
import { checks } from './checks.ts';
import { ensureVmImage } from './image.ts';
import { type MachineRun, runMachine } from './machine.ts';

let ran: MachineRun;
const say = (line: string): void => console.log(`weft: ${line}`);

beforeAll(async () => {
  ensureShim();
  const image = await ensureVmImage(say);
  const kubeProxy = await ensureProgram('kube-proxy', say);
  ran = await runMachine(image, kubeProxy, 1_800_000);
  console.log(`Linux ${ran.kernel}: ${ran.outcomes.map(({ name, seconds }) => `${name} ${seconds} s`).join(', ')}`);
  console.log(`the machine ran for ${Math.round(ran.seconds)} s`);
}, 3_600_000);

describe("on Debian's stock kernel", () => {
  it.each(Object.keys(checks))('%s', (name) => {
    const outcome = ran.outcomes.find((one) => one.name === name);
    expect(outcome, ran.console).toBeDefined();
    expect(outcome?.said).toBe('');
  });
});
