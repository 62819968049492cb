// Repository habits that no linter knows: file length in every language, no machine paths or registry addresses, no lock-file
// URLs, every decision numbered, each source file opening with a comment that says its approach.
import { readdirSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';

const maxLines = 400;
const sourceFile = /\.(?:ts|mjs|c|h|sh)$/;
const textFile = /\.(?:ts|mjs|c|h|sh|md|json|ya?ml|html)$|^(?:Dockerfile|\.ci\/run)$/;
/** What .gitignore names, and git's own. */
const foreign: ReadonlySet<string> = new Set(['node_modules', 'build', '.cache', 'coverage', '.git']);
const opensWithComment = /^(?:#![^\n]*\n)?\s*(?:\/\/|\/\*|#)/;
/** Addresses and paths that tie a file to one machine or one registry. With their backslashes they do not match this file. */
const bannedTexts: readonly RegExp[] = [
  new RegExp(`registry\\.npmjs\\.org`),
  new RegExp(`proxy\\.golang\\.org`),
  new RegExp(`deb\\.debian\\.org`),
  new RegExp(`/work/(?:main|shared|wt|\\.library)`),
];

/** One line for each breach, `path: what`. Empty when the tree is tidy. */
export async function tidyFindings(): Promise<readonly string[]> {
  const paths = filesUnder('.').filter((path) => textFile.test(path));
  const findings = await Promise.all(paths.map((path) => fileFindings(path)));
  return findings.flat();
}

/** Without git, which neither a downloaded archive nor a bare machine has. */
function filesUnder(folder: string): readonly string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return foreign.has(entry.name) ? [] : filesUnder(path);
    return entry.isFile() ? [path] : [];
  });
}

async function fileFindings(path: string): Promise<readonly string[]> {
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return [];
    throw error;
  }
  const findings: string[] = [];
  if (sourceFile.test(path)) {
    const lines = text.split('\n').length - 1;
    if (lines > maxLines) findings.push(`${path}: ${lines} lines; at most ${maxLines} (two names would say it better)`);
    if (!opensWithComment.test(text)) findings.push(`${path}: opens without a comment that says its approach`);
  }
  if (path === 'package-lock.json' && text.includes('"resolved"')) findings.push(`${path}: holds registry URLs`);
  for (const banned of bannedTexts) if (banned.test(text)) findings.push(`${path}: names ${banned.source}`);
  if (path.startsWith('docs/decisions/') && !/^docs\/decisions\/\d{3}-[a-z0-9-]+\.md$/.test(path)) {
    findings.push(`${path}: decisions are named NNN-title.md`);
  }
  return findings;
}
