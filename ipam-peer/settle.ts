// Settle: the donor's end of a transfer. A grant leaves the record when the donor *reads* that its target carries it, or when
// the target's incarnation is gone, in which case the space comes back. As long as the incarnation exists nothing is withdrawn:
// it may be about to take.
import { formatCidr } from './cidr.ts';
import { isSuspicious, mayComeBack } from './back.ts';
import { type Draft, look } from './draft.ts';
import { isVia } from './records.ts';

export function settle(draft: Draft): void {
  draft.granting = draft.granting.filter((grant) => {
    const target = look(draft, grant.to);
    if (target === 'unread') return true;
    if (target === 'gone') {
      if (isSuspicious(draft.state, draft.nowMs) || mayComeBack(draft.state, grant.to)) return true;
      draft.blocks.push({ cidr: grant.cidr });
      draft.news.push(`took ${formatCidr(grant.cidr)} back: ${grant.to.name} is gone and had not taken it`);
    } else if (!target.blocks.some((block) => isVia(block.via, draft.self, grant.id, draft.base.was))) {
      return true;
    }
    draft.changed = true;
    return false;
  });
}
