// The habits that no linter knows, in a folder without git, as an unpacked archive on a bare machine is.
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { expect, it } from 'vitest';

const registry = ['registry', 'npmjs', 'org'].join('.');

const files: Readonly<Record<string, string>> = {
  'agent/good.ts': '// Says its approach.\n',
  'agent/silent.ts': 'export const a = 1;\n',
  'agent/long.ts': `// Long.\n${'\n'.repeat(400)}`,
  'docs/page.md': `from https://${registry}/\n`,
  'docs/decisions/7-short.md': '# 7\n',
  'package-lock.json': '{ "resolved": "x" }\n',
  'node_modules/a/silent.ts': 'export const a = 1;\n',
};

it('tells each breach, and needs no git for it', () => {
  const folder = mkdtempSync(join(tmpdir(), 'weft-tidy-'));
  try {
    for (const [path, text] of Object.entries(files)) {
      mkdirSync(join(folder, dirname(path)), { recursive: true });
      writeFileSync(join(folder, path), text);
    }
    const tidy = JSON.stringify(join(process.cwd(), 'test/support/tidy.ts'));
    const program = `const { tidyFindings } = await import(${tidy}); console.log(JSON.stringify(await tidyFindings()));`;
    const out = execFileSync(process.execPath, ['--input-type=module', '-e', program], {
      cwd: folder,
      env: { PATH: '' },
      encoding: 'utf8',
    });
    const told = (JSON.parse(out) as readonly string[]).map((finding) => finding.split(':')[0] ?? '');
    expect(told.toSorted()).toEqual([
      'agent/long.ts',
      'agent/silent.ts',
      'docs/decisions/7-short.md',
      'docs/page.md',
      'package-lock.json',
    ]);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
});
