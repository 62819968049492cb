// A process that writes leases into a store, or promises into a voter's, one after another, and says each once it is durable: for
// tests that kill it at any moment. Arguments: `leases` or `promises`, the file.

import { openVoterStore } from '#agent/registry/peers/store.ts';
import { openStore } from '#agent/runtime/store.ts';

const [what = '', path = ''] = process.argv.slice(2);

function writer(): (at: number) => void {
  if (what === 'leases') {
    const store = openStore(path);
    return (at) => {
      const lease = {
        containerId: `c${at}`,
        ifname: 'eth0',
        generation: 'ab',
        addresses: [`10.32.${at >> 8}.${at & 255}`],
        owner: { network: 'weft', netnsPath: '/run/netns/x', netnsInode: 1n },
        state: 'active',
        sinceMs: at,
        hostIfname: `weftp${at}`,
      } as const;
      store.persist([{ kind: 'lease', lease }], 'normal');
    };
  }
  const store = openVoterStore(path);
  return (at) => {
    const promised = { counter: at, proposer: 'p' };
    store.commit(() => {
      store.write(`peer/n${at}`, { promised, accepted: { counter: 0, proposer: '' }, cell: null });
    });
  };
}

const write = writer();
for (let at = 1; ; at += 1) {
  write(at);
  process.stdout.write(`${at}\n`);
  // Lets the line out.
  await new Promise((resolve) => setImmediate(resolve));
}
