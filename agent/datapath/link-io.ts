// One link as the kernel shows it now.
import { getLink, summarized, withEnds } from '#agent/netlink/link.ts';
import type { Link, LinkEnds, LinkSummary } from '#agent/netlink/link.ts';
import type { NetlinkRequest } from '#agent/netlink/message.ts';
import { errno } from '#agent/netlink/netlink-error.ts';

import type { KernelIo } from './kernel-io.ts';
import type { IndexOf, NameOf } from './set-shapes.ts';

/** The link of that name, undefined where there is none. Throws NetlinkError for any other refusal. */
export function readLink(io: KernelIo, ifname: string): Link | undefined {
  return answerOf(io, getLink({ ifname }));
}

/** The same, as far as a summary goes. */
export function readSummary(io: KernelIo, ifname: string): LinkSummary | undefined {
  return answerOf(io, summarized(getLink({ ifname })));
}

/** Asks for each name. */
export function liveIndexOf(io: KernelIo): IndexOf {
  return (ifname) => readSummary(io, ifname)?.ifiIndex;
}

/** Asks for each number. */
export function liveNameOf(io: KernelIo): NameOf {
  return (ifindex) => answerOf(io, summarized(getLink({ ifiIndex: ifindex })))?.ifname ?? `#${ifindex}`;
}

/** Both ends of a veth. */
export function readEnds(io: KernelIo, ifname: string): LinkEnds | undefined {
  return answerOf(io, withEnds(getLink({ ifname })));
}

function answerOf<Answer>(io: KernelIo, request: NetlinkRequest<Answer>): Answer | undefined {
  const [reply] = io.route.batch([request]);
  if (reply.ok) return reply.answers[0];
  if (reply.error.errno === errno.ENODEV) return undefined;
  throw reply.error;
}
