// Run on a host of the lab: makes the disk of a voter there. (Seen from the machine, SQLite would follow the way to a host's root
// wrongly.)

import { createVoterDisk } from '#agent/registry/peers/store.ts';

createVoterDisk('/var/lib/weft/voter.db');
