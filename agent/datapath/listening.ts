// Everything that tells that what is ours may have been changed: the kernel's notifications, and looks at what they do not tell of.
import { QuickLooks } from './quick-looks.ts';
import type { QuickLooksOptions } from './quick-looks.ts';
import { watchKernel } from './watch.ts';
import type { WatchOptions } from './watch.ts';

/** Until disposed. Throws NetlinkError where notifications cannot be had. */
export function listen(options: QuickLooksOptions & Omit<WatchOptions, 'onRuleset'>): Disposable {
  using opened = new DisposableStack();
  const looks = opened.use(new QuickLooks(options));
  opened.use(watchKernel({ ...options, onRuleset: () => looks.rulesetChanged() }));
  return opened.move();
}
