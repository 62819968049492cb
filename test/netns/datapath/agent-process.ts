// A datapath as a process of its own inside a host's namespace, to be killed: `node agent-process.ts <json>` with the view
// and the leases; prints `ready` once it has started.
import { createDatapath } from '#agent/datapath/kernel-datapath.ts';
import { defaultDatapathSettings } from '#agent/datapath/settings.ts';
import type { DatapathSettings } from '#agent/datapath/settings.ts';
import type { IpamView, Lease } from '#agent/runtime/ipam.ts';

const input = JSON.parse(process.argv[2] ?? '') as {
  view: IpamView;
  leases: readonly Lease[];
  settings?: Partial<DatapathSettings>;
};
const silent = (): void => {};
const datapath = createDatapath({
  settings: { ...defaultDatapathSettings, comparePeriodMs: 50, ...input.settings },
  log: { debug: silent, info: silent, warn: silent, error: silent },
});
await datapath.start(input.view, input.leases);
process.stdout.write(`ready ${datapath.status().repairs}\n`);
setInterval(silent, 1000);
