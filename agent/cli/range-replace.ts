// `weft range replace`: how the default pool gets another range. Nobody can do that from one node: pods keep their addresses for life, and
// the records of the others are not this node's to delete. So the command checks what is asked and prints the steps for this very
// cluster; `kubectl weft range replace` takes them, after it has looked that no pod has an address.
import { askStatus } from '#agent/cli/client.ts';
import { UsageError, splitOptions } from '#agent/cli/usage-error.ts';
import { loadConfig } from '#agent/config.ts';
import { hostPort } from '#agent/config/formats.ts';
import type { Status } from '#agent/observe/status.ts';
import { type Cidr, formatCidr, overlaps, parseCidr } from '#ipam-peer/cidr.ts';
import { defaultUniverse, parseUniverse } from '#ipam-peer/records.ts';

export const rangeReplaceUsage = `Usage: weft range replace CIDR [CIDR …] [--config FILE]

Says how the default pool of this cluster gets other ranges, and changes nothing. Without stopping pods a further pool does
the same for them, namespace by namespace (docs/ipam.md, "Change a range").
`;

/** Resolves to the steps. Throws UsageError for ranges that cannot be, WeftError('agentAway'). */
export async function rangeReplace(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): Promise<string> {
  const { options, rest } = splitOptions(argv, ['--config']);
  if (rest.length === 0) throw new UsageError(rangeReplaceUsage.trimEnd());
  const ranges = readRanges(rest);
  const file = options.get('--config');
  const { config } = loadConfig({ argv: file === undefined ? [] : ['--config', file], env });
  const target = hostPort(config.statusListen);
  if (target === undefined) throw new UsageError('the status API is switched off (setting statusListen)');
  const status = await askStatus(target, AbortSignal.timeout(5000));
  // A node whose space lies in the new ranges too would take them for the old Universe made again, and keep it.
  const other = status.pools.find((pool) => overlapsAny(pool.ranges, ranges));
  if (other !== undefined) {
    const grow = other.name === defaultUniverse ? ' (a range grows by a further pool: docs/ipam.md)' : '';
    throw new UsageError(
      `${rest.join(' ')} overlaps the pool ${other.name}, ${other.ranges.join(', ')}: choose others${grow}`,
    );
  }
  const texts = ranges.map(formatCidr);
  const steps = config.registry === 'kubernetes' ? kubernetesSteps(status, texts) : hostSteps(config.voters, texts);
  return [...heading(status), ...steps, ''].join('\n');
}

function readRanges(texts: readonly string[]): readonly Cidr[] {
  const parsed = parseUniverse({ schema: 1, ranges: texts, reserved: [] });
  if (parsed.ok) return parsed.record.ranges;
  throw new UsageError(
    `${texts.join(' ')}: ${parsed.reason}; a range is like 10.96.0.0/12, no address bits below the prefix`,
  );
}

function overlapsAny(texts: readonly string[], ranges: readonly Cidr[]): boolean {
  const own = texts.flatMap((text) => parseCidr(text) ?? []);
  return own.some((cidr) => ranges.some((range) => overlaps(range, cidr)));
}

function heading({ pools, nodeName }: Status): readonly string[] {
  const pool = pools.find(({ name }) => name === defaultUniverse);
  const now = pool === undefined || pool.ranges.length === 0 ? 'not known yet' : pool.ranges.join(', ');
  return [
    `The range of the default pool is ${now}; pods on ${nodeName} have ${pool?.leasedAddresses ?? 0} addresses of it.`,
    'A range is replaced while no pod has an address of it (those of hostNetwork have none): until its own pods are gone, a node',
    'gives no pod an address any more.',
    '',
  ];
}

function kubernetesSteps({ pools }: Status, ranges: readonly string[]): readonly string[] {
  const records = pools.find(({ name }) => name === defaultUniverse)?.peers.map(({ name }) => name) ?? [];
  const universe = {
    apiVersion: 'weft.network/v1alpha1',
    kind: 'Universe',
    metadata: { name: defaultUniverse },
    spec: { ranges },
  };
  return [
    `\`kubectl weft range replace ${ranges.join(' ')}\` does what follows, if no pod is left. By hand, with rights of your own:`,
    '',
    `  kubectl delete universes.weft.network ${defaultUniverse}`,
    `  kubectl create -f - <<'EOF'`,
    JSON.stringify(universe),
    'EOF',
    `  kubectl delete peers.weft.network ${records.join(' ')}`,
    '',
    'Then put the same ranges into the ConfigMap weft (setting `ranges`), for a network that is founded anew one day.',
  ];
}

function hostSteps(voters: readonly string[], ranges: readonly string[]): readonly string[] {
  return [
    'On every host, when no container has an address any more:',
    '',
    '  systemctl stop weft',
    '  weft clean',
    `  # /etc/weft/config.json: "ranges": ${JSON.stringify(ranges)}`,
    '',
    `Then, on the hosts that vote (${voters.join(', ')}): weft voters restore empty`,
    'Then, on every host: systemctl start weft',
  ];
}
