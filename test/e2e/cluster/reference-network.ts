// The reference `bridge` plugin with static routes: proves that the cluster itself works (`cli.ts up --cni bridge`). No test of
// Weft uses it.
import { run } from './host.ts';
import type { ClusterNode } from './node.ts';

const podRange = '10.244.0.0/16';

/** Writes each node's conflist, and routes every node's pod range to it from the others and from the control plane. */
export async function installReferenceNetwork(nodes: readonly ClusterNode[]): Promise<void> {
  for (const node of nodes) {
    const subnet = subnetOf(node);
    await run(['ip', 'route', 'replace', subnet, 'via', node.address]);
    for (const other of nodes) {
      if (other !== node) await other.run(['ip', 'route', 'replace', subnet, 'via', node.address]);
    }
    await node.run(['sysctl', '-qw', 'net.ipv4.ip_forward=1', 'net.bridge.bridge-nf-call-iptables=1']);
    const masquerade = `-A POSTROUTING -s ${subnet} ! -d ${podRange} -m addrtype ! --dst-type LOCAL -j MASQUERADE`;
    await node.run(['iptables', '-t', 'nat', ...masquerade.split(' ')]);
    await node.run(['tee', '/etc/cni/net.d/10-bridge.conflist'], { input: conflist(subnet) });
  }
}

function subnetOf(node: ClusterNode): string {
  return `10.244.${node.address.split('.')[3]}.0/24`;
}

function conflist(subnet: string): string {
  const ipam = { type: 'host-local', ranges: [[{ subnet }]], routes: [{ dst: '0.0.0.0/0' }] };
  return JSON.stringify({
    cniVersion: '1.0.0',
    name: 'reference',
    plugins: [
      { type: 'bridge', bridge: 'cni0', isGateway: true, hairpinMode: true, ipam },
      { type: 'portmap', capabilities: { portMappings: true }, snat: true },
    ],
  });
}
