// The log in both forms: what a person reads on a terminal and what a collector parses.
import { spawnSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { createLogger, textLine } from '#agent/observe/log.ts';
import type { LogOptions } from '#agent/observe/log.ts';

function lines(options: Partial<LogOptions>, write: (log: ReturnType<typeof createLogger>) => void): readonly string[] {
  const seen: string[] = [];
  write(
    createLogger({
      logLevel: 'info',
      logFormat: 'auto',
      isTerminal: false,
      write: (line) => seen.push(line),
      ...options,
    }),
  );
  return seen;
}

describe('log', () => {
  it('is JSON without a terminal, with level by name and ISO time', () => {
    const [line = ''] = lines({}, (log) => log.info({ node: 'host1' }, 'ready'));
    expect(JSON.parse(line)).toEqual({
      level: 'info',
      time: expect.stringMatching(/^\d{4}-.*Z$/),
      node: 'host1',
      msg: 'ready',
    });
  });

  it('is a line for people on a terminal', () => {
    const [line = ''] = lines({ isTerminal: true }, (log) => log.child({ part: 'cni' }).info({ tookMs: 3 }, 'ready'));
    expect(line).toMatch(/^\d\d:\d\d:\d\d info {2}cni: ready {2}tookMs=3\n$/);
  });

  it('obeys the format over the terminal, and the level', () => {
    expect(lines({ logFormat: 'text' }, (log) => log.info('a'))[0]).toMatch(/ a\n$/);
    expect(lines({ logFormat: 'json', isTerminal: true }, (log) => log.info('a'))[0]).toMatch(/^\{/);
    expect(lines({ logLevel: 'warn' }, (log) => log.info('a'))).toEqual([]);
  });

  it('shows the stack of an error', () => {
    const [line = ''] = lines({ logFormat: 'text' }, (log) => log.error(new Error('lost')));
    expect(line).toMatch(/lost\n {4}Error: lost\n/);
  });

  it('passes on what is no JSON', () => {
    expect(textLine('plain\n')).toBe('plain\n');
  });
});

describe('a log that cannot be written', () => {
  it.each(['json', 'text'])('%s: the agent goes on', (logFormat) => {
    const log = JSON.stringify(join(process.cwd(), 'agent/observe/log.ts'));
    const program = `
      const { createLogger } = await import(${log});
      const log = createLogger({ logLevel: 'info', logFormat: '${logFormat}' });
      for (let round = 0; round < 3; round++) {
        log.info({ round }, 'nobody reads this');
        await new Promise((resolve) => setTimeout(resolve, 10));
      }
      console.log('goes on');`;
    const full = openSync('/dev/full', 'w');
    try {
      const node = ['--disable-warning=ExperimentalWarning', '--input-type=module', '-e', program];
      const { status, stdout } = spawnSync(process.execPath, node, {
        stdio: ['ignore', 'pipe', full],
        encoding: 'utf8',
      });
      expect([status, stdout]).toEqual([0, 'goes on\n']);
    } finally {
      closeSync(full);
    }
  });
});
