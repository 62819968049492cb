// Names and addresses of the test cluster, and the few choices that a boot takes.

export const clusterName = 'weft-e2e';

/** For commands in a node: /node/bin has the cluster's programs. */
export const pathInNodes = 'PATH=/node/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin';
export const clusterDomain = 'cluster.local';

/** What a family brings to the cluster. */
interface FamilyAddresses {
  readonly prefixLength: number;
  /** The test's own namespace: the machines' gateway; etcd and the control plane, unless a node holds them. */
  readonly host: string;
  /** A host that is no node: it asks NodePorts from outside. */
  readonly outside: string;
  readonly node: (index: number) => string;
  readonly services: string;
  readonly kubernetesService: string;
  readonly dns: string;
  /** Weft's range where it is not the default one. */
  readonly pods: string;
}

/** k3s' Service range, which lies inside Weft's default range: no pod may get an address of it. */
const ipv4: FamilyAddresses = {
  prefixLength: 24,
  host: '192.168.77.1',
  outside: '192.168.77.200',
  node: (index) => `192.168.77.${10 + index}`,
  services: '10.43.0.0/16',
  kubernetesService: '10.43.0.1',
  dns: '10.43.0.10',
  pods: '10.32.0.0/12',
};

const ipv6: FamilyAddresses = {
  prefixLength: 64,
  host: 'fd00:77::1',
  outside: 'fd00:77::200',
  node: (index) => `fd00:77::${10 + index}`,
  services: 'fd00:96::/112',
  kubernetesService: 'fd00:96::1',
  dns: 'fd00:96::a',
  pods: 'fd00:32::/48',
};

export type Families = 'ipv4' | 'dual' | 'ipv6';

/** The families of a cluster, its first one first. */
export function familiesOf({ families }: ClusterSettings): readonly [FamilyAddresses, ...FamilyAddresses[]] {
  return families === 'ipv6' ? [ipv6] : families === 'dual' ? [ipv4, ipv6] : [ipv4];
}

/** An address as it stands in a URL. */
export function urlHost(address: string): string {
  return address.includes(':') ? `[${address}]` : address;
}

/** Address of the API server: the test's own namespace, or the first node. */
export function apiServerAddress(settings: ClusterSettings): string {
  const [first] = familiesOf(settings);
  return settings.controlPlane === 'node' ? first.node(1) : first.host;
}

export function apiServerUrl(settings: ClusterSettings): string {
  return `https://${urlHost(apiServerAddress(settings))}:6443`;
}

/** What keeps pods off a node with the control plane, as kubeadm sets it. */
export const controlPlaneTaint = 'node-role.kubernetes.io/control-plane';

export const images = {
  pause: 'registry.k8s.io/pause:3.10.2',
  coredns: 'registry.k8s.io/coredns/coredns:v1.15.0',
  /** agnhost, every busybox applet, curl, dig, ping, ip, ss, nc, tcpdump. */
  tools: 'registry.k8s.io/e2e-test-images/agnhost:2.66.1',
  /** What upstream's own specs name beside it. */
  dnsTools: 'registry.k8s.io/e2e-test-images/glibc-dns-testing:2.1.1',
  busybox: 'registry.k8s.io/e2e-test-images/busybox:1.37.0-2',
} as const;

export type ProxyMode = 'iptables' | 'nftables';

export interface ClusterSettings {
  readonly nodes: number;
  readonly proxyMode: ProxyMode;
  /** What nodes, pods and Services have; `dual`: IPv4 first. */
  readonly families: Families;
  /** `outside`: on a machine that is no node and has no pods. `node`: on the first node, which is tainted, as kubeadm does it. */
  readonly controlPlane: 'outside' | 'node';
  /** `none` leaves /etc/cni/net.d and /opt/cni/bin empty; `bridge` proves the cluster with the reference plugins. */
  readonly cni: 'none' | 'bridge';
}

/** A choice of the command line. Throws when it is none of those that there are. */
export function oneOf<const T extends string>(choices: readonly T[], value: string): T {
  const found = choices.find((choice) => choice === value);
  if (found === undefined) throw new Error(`"${value}": one of ${choices.join(', ')} is needed`);
  return found;
}

/** Directories of one boot, absolute. */
export interface ClusterPaths {
  /** The programs (programs.ts). */
  readonly bin: string;
  /** Image tarballs to import on each node. */
  readonly images: readonly string[];
  /** Keys, node directories: removed at the end. */
  readonly work: string;
  /** Kept: one log per daemon. */
  readonly logs: string;
}
