// What a founder finds in use on its host, compared with the routes that `ip` made.
import { expect, it } from 'vitest';
import { routesInUse } from '#agent/survey.ts';
import { formatCidr } from '#ipam-peer/cidr.ts';
import { run, TestNetns } from '#test/support/netns.ts';

it('names the routes of others, whatever their table, and neither Weft’s nor the default', async () => {
  await using ns = await TestNetns.create();
  const ip = async (...words: readonly string[]): Promise<void> => {
    await run(['nsenter', `--net=${ns.path}`, 'ip', ...words]);
  };
  for (const name of ['eth0', 'weft0', 'weftp0123456789']) {
    await ip('link', 'add', name, 'type', 'veth');
    await ip('link', 'set', name, 'up');
  }
  await ip('addr', 'add', '192.0.2.7/24', 'dev', 'eth0');
  await ip('addr', 'add', '10.32.0.1/16', 'dev', 'weft0');
  await ip('route', 'add', 'default', 'via', '192.0.2.1');
  await ip('route', 'add', '10.40.0.0/16', 'via', '192.0.2.2');
  await ip('route', 'add', '10.41.0.0/16', 'dev', 'eth0', 'table', '1000');
  await ip('route', 'add', 'blackhole', '10.42.0.0/16');
  await ip('route', 'add', '10.44.0.0/16', 'via', '192.0.2.2', 'proto', '87');
  await ip('route', 'add', '10.32.1.9/32', 'dev', 'weftp0123456789');
  await ip('-6', 'route', 'add', 'fd00:32:1::/64', 'dev', 'eth0');
  const isOwnDevice = (name: string): boolean => name.startsWith('weft');
  const found = routesInUse({ ownProtocol: 87, isOwnDevice, netnsPath: ns.path });
  const texts = found.map(({ cidr, by }) => `${formatCidr(cidr)}: ${by}`).filter((text) => !text.startsWith('f'));
  expect(texts.toSorted()).toEqual([
    '10.40.0.0/16: a route of this host dev eth0',
    '10.41.0.0/16: a route of this host dev eth0',
    '10.42.0.0/16: a route of this host',
    '192.0.2.0/24: a route of this host dev eth0',
  ]);
  expect(found.map(({ cidr }) => formatCidr(cidr))).toContain('fd00:32:1::/64');
});
