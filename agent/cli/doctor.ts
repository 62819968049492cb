// `weft doctor`: what is wrong on this node. The running agent knows most and is asked first; without one (before an installation, or
// when it does not come up) the host alone is looked at, the kernel's features included.

import type { Config } from '#agent/config.ts';
import { datapathSettings } from '#agent/datapath/from-config.ts';
import { openKernelIo } from '#agent/datapath/kernel-io.ts';
import { hostConditions } from '#agent/doctor/checks.ts';
import { gatherFacts } from '#agent/doctor/facts.ts';
import { kernelConditions } from '#agent/doctor/kernel-features.ts';
import { findingOf } from '#agent/observe/findings.ts';
import type { Finding } from '#agent/observe/findings.ts';
import { certificateConditions, readCertificateEnds } from '#agent/registry/peers/certificate-ends.ts';
import { namedUnderlay } from '#agent/underlay.ts';

/** Findings about the host, without an agent. Throws WeftError where the kernel cannot be asked at all. */
export async function examineHost(config: Config): Promise<readonly Finding[]> {
  const settings = datapathSettings(config, '');
  using io = openKernelIo(settings);
  const facts = await gatherFacts({ io, settings, conflistPath: config.conflistPath });
  const own = config.nodes.find(({ name }) => name === config.nodeName)?.addresses[0];
  const conditions = hostConditions(
    facts,
    {
      ranges: config.ranges,
      reserved: config.reserved,
      ownBlocks: [],
      underlayAddress: namedUnderlay(config) || own || primaryAddress(facts),
      peers: [],
      machineIds: new Map(),
      // Whoever founds the network leaves the Services out of the range; what is left out, only an agent knows.
      serviceAddress: undefined,
      serviceRanges: [],
      conflistPath: config.conflistPath,
    },
    settings,
  );
  const ends = config.registry === 'peers' ? await readCertificateEnds({ ca: config.tlsCa, cert: config.tlsCert }) : [];
  const ended = certificateConditions(ends, Date.now());
  return [...kernelConditions(io), ...ended, ...conditions].map((condition) => findingOf(condition));
}

/** The first address of the link that has the default route: as a rule the node's own. */
function primaryAddress({ routes, links }: Awaited<ReturnType<typeof gatherFacts>>): string | undefined {
  const ifname = routes.find(({ dst }) => dst === '0.0.0.0/0' || dst === '::/0')?.ifname;
  return links.find((link) => link.ifname === ifname)?.cidrs[0]?.split('/')[0];
}

/** Errors first; one line of what, one of what to do. */
export function doctorText(findings: readonly Finding[]): string {
  if (findings.length === 0) return 'no findings\n';
  const sorted = findings.toSorted((left, right) =>
    left.severity < right.severity ? -1 : left.severity > right.severity ? 1 : 0,
  );
  const lines = sorted.flatMap(({ severity, name, message, nextStep }) => [
    `${severity} ${name}: ${message}`,
    `  ${nextStep}`,
  ]);
  return `${lines.join('\n')}\n`;
}
