// The network that joins the machines: one bridge in this process's own network namespace, no way out.
import { attempt, run } from './host.ts';
import { familiesOf, type ClusterSettings } from './settings.ts';

type FamilyAddresses = ReturnType<typeof familiesOf>[number];

export async function makeFabric(settings: ClusterSettings): Promise<void> {
  await run(['ip', 'link', 'set', 'lo', 'up']);
  await run(['ip', 'link', 'add', 'fabric', 'type', 'bridge']);
  for (const { host, prefixLength } of familiesOf(settings)) {
    await run(['ip', 'addr', 'add', `${host}/${prefixLength}`, 'dev', 'fabric', ...withoutDad(host)]);
  }
  await run(['ip', 'link', 'set', 'fabric', 'up']);
  // Frames between machines must not meet this namespace's own netfilter.
  await attempt(['sysctl', '-qw', 'net.bridge.bridge-nf-call-iptables=0', 'net.bridge.bridge-nf-call-ip6tables=0']);
}

/** A network namespace with `eth0` on the fabric's bridge and rp_filter as distributions set it. */
export async function joinFabric(
  name: string,
  families: readonly FamilyAddresses[],
  addressOf: (family: FamilyAddresses) => string,
): Promise<void> {
  const inside = (...command: readonly string[]): Promise<string> => run(['ip', 'netns', 'exec', name, ...command]);
  await run(['ip', 'netns', 'add', name]);
  await inside('sysctl', '-qw', 'net.ipv4.conf.all.rp_filter=1', 'net.ipv4.conf.default.rp_filter=1');
  await run(['ip', 'link', 'add', name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', name]);
  await run(['ip', 'link', 'set', name, 'master', 'fabric', 'up']);
  await run(['ip', '-n', name, 'link', 'set', 'lo', 'up']);
  await run(['ip', '-n', name, 'link', 'set', 'eth0', 'up']);
  for (const family of families) await giveAddress(name, family, addressOf(family));
}

/** Takes a machine off the fabric, as if its cable and its kernel were gone. Succeeds when it was not on it. */
export async function leaveFabric(name: string): Promise<void> {
  await attempt(['ip', 'link', 'del', name]);
  await attempt(['ip', 'netns', 'del', name]);
}

export async function giveAddress(name: string, family: FamilyAddresses, address: string): Promise<void> {
  const cidr = `${address}/${family.prefixLength}`;
  await run(['ip', '-n', name, 'addr', 'add', cidr, 'dev', 'eth0', ...withoutDad(address)]);
  const version = address.includes(':') ? '-6' : '-4';
  await run(['ip', '-n', name, version, 'route', 'replace', 'default', 'via', family.host]);
}

function withoutDad(address: string): readonly string[] {
  return address.includes(':') ? ['nodad'] : [];
}
