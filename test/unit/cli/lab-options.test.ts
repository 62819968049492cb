// The lab's options are refused in plain words before anything is touched.
import { describe, expect, it } from 'vitest';
import { parseOptions, UsageError } from '#test/lab/options.ts';

describe('lab options', () => {
  it('has defaults, and two pods a host', () => {
    expect(parseOptions([])).toEqual({ once: false, nodes: 3, pods: 6, ipv6: false });
    expect(parseOptions(['--once', '--nodes=5'])).toEqual({ once: true, nodes: 5, pods: 10, ipv6: false });
    expect(parseOptions(['--nodes', '2', '--pods', '0'])).toEqual({ once: false, nodes: 2, pods: 0, ipv6: false });
    expect(parseOptions(['--ipv6'])).toEqual({ once: false, nodes: 3, pods: 6, ipv6: true });
    expect(parseOptions(['--help'])).toBeUndefined();
  });

  it.each([
    [['--nodes', '0'], /--nodes must be a whole number from 1 to 16, not "0"/],
    [['--nodes', '17'], /from 1 to 16/],
    [['--nodes'], /not ""/],
    [['--pods', '-1'], /--pods must be a whole number from 0 to 64/],
    [['--pods', '1e1'], /--pods/],
    [['--ipv6=1'], /unknown option "--ipv6=1"/],
    [['--once=yes'], /unknown option "--once=yes"/],
    [['three'], /unknown option "three"/],
  ])('%j is refused', (argv, words) => {
    expect(() => parseOptions(argv)).toThrow(UsageError);
    expect(() => parseOptions(argv)).toThrow(words);
  });
});
