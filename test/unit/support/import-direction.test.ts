// The import direction that docs/ARCHITECTURE.md names is lint's to keep: each breach of it, planted beside what is allowed, is told.
import { execFile } from 'node:child_process';
import { copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';

/** Path of a file, then what stands in it. */
const breaches: readonly (readonly [string, string])[] = [
  ['ipam-peer/cidr.ts', "import 'node:fs';"],
  ['ipam-peer/draft.ts', "import '#agent/config.ts';"],
  ['ipam-peer/caspaxos/round.ts', "import '../../agent/config.ts';"],
  ['ipam-peer/cycle.ts', "export type { Config } from '../agent/config.ts';"],
  ['ipam-peer/due.ts', "export const late = import('node:fs');"],
  ['ipam-peer/found.ts', 'export const now = new Date();'],
  ['ipam-peer/free.ts', 'export const now = globalThis.Date;'],
  ['ipam-peer/grant.ts', 'export const { random } = Math;'],
  ['ipam-peer/hints.ts', 'setImmediate(() => undefined);'],
  ['ipam-peer/holder.ts', "export const fs = require('fs');"],
  ['agent/config.ts', "import '#test/support/netns.ts';"],
  ['agent/cni/add.ts', "import '../../test/support/netns.ts';"],
  ['agent/cli/status.ts', "import '#test/lab/main.ts';"],
  ['agent/memory.ts', "import './main.ts';"],
  ['agent/health.ts', "import '#agent/main.ts';"],
  ['agent/findings.ts', "export const late = import('./main.ts');"],
  ['agent/errors.ts', "import '../cni-shim/build.ts';"],
  ['agent/datapath/desired.ts', "import 'node:fs';"],
  ['agent/datapath/diff.ts', "import { apply } from './apply.ts'; apply();"],
  ['agent/datapath/desired-peers.ts', "import { dump } from '#agent/netlink/dump.ts'; dump();"],
  ['agent/datapath/ruleset.ts', 'export const now = Date.now();'],
  ['cni-shim/build.ts', "import '#agent/config.ts';"],
  ['cni-shim/other.ts', "import '../ipam-peer/cidr.ts';"],
];

const allowed: readonly (readonly [string, string])[] = [
  ['ipam-peer/space.ts', "import { a } from './cidr.ts'; a();"],
  ['agent/runtime/ipam.ts', "import { a } from '#ipam-peer/space.ts'; import { b } from '../config.ts'; a(b);"],
  ['agent/datapath/diff-overlay.ts', "import type { A } from './actual.ts'; import { b } from './objects.ts'; b<A>();"],
  ['agent/datapath/identity.ts', "import { a } from '#ipam-peer/cidr.ts'; import { b } from 'node:crypto'; a(b);"],
  ['agent/cli/weft.ts', "import { a } from '#agent/main.ts'; a();"],
  ['test/support/agent-host.ts', "import { a } from '#agent/main.ts'; a();"],
];

interface Report {
  readonly diagnostics: readonly { readonly code: string; readonly filename: string }[];
}

it('tells every breach, and nothing that is allowed', async () => {
  const folder = mkdtempSync(join(tmpdir(), 'weft-lint-'));
  try {
    copyFileSync('.oxlintrc.json', join(folder, '.oxlintrc.json'));
    for (const [path, text] of [...breaches, ...allowed]) {
      mkdirSync(join(folder, dirname(path)), { recursive: true });
      writeFileSync(join(folder, path), `${text}\n`);
    }
    const oxlint = join(process.cwd(), 'node_modules/.bin/oxlint');
    const out = await new Promise<string>((resolve) => {
      execFile(oxlint, ['--quiet', '--format=json', '.'], { cwd: folder }, (_, stdout) => resolve(stdout));
    });
    const told = (JSON.parse(out) as Report).diagnostics
      .filter(({ code }) => code.includes('no-restricted-'))
      .map(({ filename }) => filename);
    expect([...new Set(told)].toSorted()).toEqual(breaches.map(([path]) => path).toSorted());
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
