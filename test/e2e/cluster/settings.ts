// Names and addresses of the test cluster, and the few choices that a boot takes.

export const clusterName = 'weft-e2e';
export const serviceRange = '10.96.0.0/16';
/** The second family of a dual-stack cluster. */
export const serviceRange6 = 'fd00:96::/112';
/** Weft's ranges in a dual-stack cluster. */
export const dualRanges: readonly string[] = ['10.32.0.0/12', 'fd00:32::/48'];
export const kubernetesServiceAddress = '10.96.0.1';
export const dnsAddress = '10.96.0.10';
export const clusterDomain = 'cluster.local';

/** The network that joins the machines: one bridge, no way out. */
export const fabric = {
  prefixLength: 24,
  /** etcd and the control plane; the namespace that the tests themselves run in. */
  controlPlane: '192.168.77.1',
  /** A host that is no node: it asks NodePorts from outside. */
  outside: '192.168.77.200',
  node: (index: number): string => `192.168.77.${10 + index}`,
} as const;

/** The same machines by IPv6, in a dual-stack cluster. */
export const fabric6 = {
  prefixLength: 64,
  controlPlane: 'fd00:77::1',
  outside: 'fd00:77::200',
  node: (index: number): string => `fd00:77::${10 + index}`,
} as const;

export const apiServerUrl: string = `https://${fabric.controlPlane}:6443`;

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
  /** `dual`: nodes, pods and Services have both families, IPv4 first. */
  readonly families: 'ipv4' | 'dual';
  /** `none` leaves /etc/cni/net.d and /opt/cni/bin empty; `bridge` proves the cluster with the reference plugins. */
  readonly cni: 'none' | 'bridge';
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
