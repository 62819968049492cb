// Settings that are wrong only together: each value is allowed by the schema, the combination is not.

import type { Config } from '#agent/config.ts';
import { hostPort, poolOf, rangesOverlap } from '#agent/config/formats.ts';
import { show } from '#agent/config/settings.ts';

/** What no single value can show to be wrong. Same form of line as schemaProblems. */
export function crossProblems(config: Config, sourceOf: (key: string) => string): readonly string[] {
  const problems: string[] = [];
  const say = (key: keyof Config, text: string): void => {
    problems.push(`${key}: ${show(config[key])} (${sourceOf(key)}) is not allowed: ${text}`);
  };
  const names = config.nodes.map((node) => node.name);
  const repeated = names.find((name, at) => names.indexOf(name) !== at);
  if (repeated !== undefined) say('nodes', `${repeated} is named twice`);
  if (config.discovery === 'static' && !names.includes(config.nodeName)) {
    say('nodes', `with discovery static the list must name this node, ${config.nodeName}`);
  }
  const taken = config.ranges.map((range) => ({ range, by: 'ranges' }));
  for (const { name, ranges } of config.pools.map(poolOf)) {
    for (const range of ranges) {
      const other = taken.find((one) => rangesOverlap(one.range, range));
      if (other !== undefined) say('pools', `${range} of ${name} overlaps ${other.range} of ${other.by}`);
      taken.push({ range, by: name });
    }
  }
  if (config.registry === 'peers') {
    if (config.voters.length % 2 === 0) say('voters', 'registry peers needs 1, 3, 5 or 7 of them');
    const stranger = config.voters.find((voter) => !names.includes(voter));
    if (stranger !== undefined && config.discovery === 'static') say('voters', `${stranger} is not among nodes`);
  }
  if (config.registry === 'peers' && config.discovery === 'kubernetes') {
    say('discovery', 'registry peers works with discovery static');
  }
  if (config.mtuBytes !== 0 && config.mtuBytes < 576) say('mtuBytes', 'it must be 0 (automatic) or 576 and more');
  const overlap = config.ranges.find((a, at) => config.ranges.some((b, bt) => bt > at && rangesOverlap(a, b)));
  if (overlap !== undefined) say('ranges', `${overlap} overlaps another of them`);
  if (config.dhcpUplink.startsWith('weft')) say('dhcpUplink', 'links named weft… are Weft’s own');
  if (config.dhcpUplink !== '' && config.dhcpUplink === config.underlayInterface) {
    say('dhcpUplink', 'underlayInterface has the same link, which the node needs for itself');
  }
  for (const [key, text] of portClashes(config)) say(key, text);
  return problems;
}

function portClashes(config: Config): readonly (readonly [keyof Config, string])[] {
  const listeners: readonly (readonly [keyof Config, number])[] = [
    ...(config.registry === 'peers' ? [['peersPort', config.peersPort] as const] : []),
    ['metricsListen', hostPort(config.metricsListen)?.port ?? 0],
    ['statusListen', hostPort(config.statusListen)?.port ?? 0],
  ];
  return listeners.flatMap(([key, port], at) => {
    const other = listeners.slice(0, at).find(([, taken]) => taken === port && port !== 0);
    return other === undefined ? [] : [[key, `${other[0]} has the same TCP port`] as const];
  });
}
