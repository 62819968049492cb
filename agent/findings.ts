// The catalogue of findings: every condition that a person should know of has a stable name here, what one sees of it, why it is, and
// what to do. `weft status`, `weft doctor`, the log, the metrics and the status page name the same; docs/troubleshooting.md is made
// from it, and a test compares the two.

export interface FindingKind {
  /** `error`: pods cannot start, or some traffic certainly does not flow. */
  readonly severity: 'warning' | 'error';
  /** What a person notices, without knowing the cause. */
  readonly symptom: string;
  readonly cause: string;
  readonly nextStep: string;
}

export type FindingName =
  | 'notReady'
  | 'forwardingOff'
  | 'ipv6Off'
  | 'kernelFeatureMissing'
  | 'kernelRefused'
  | 'podLinkMissing'
  | 'uplinkUnusable'
  | 'pluginOwed'
  | 'registrySilent'
  | 'certificateEnds'
  | 'fewAddresses'
  | 'poolNearlyFull'
  | 'universeDeleted'
  | 'universeReplaced'
  | 'blocksInTwoRecords'
  | 'spaceWithoutOwner'
  | 'badBlock'
  | 'blockOutsideRange'
  | 'duplicateBlock'
  | 'duplicateLease'
  | 'duplicateHostPort'
  | 'peerWithoutUnderlay'
  | 'duplicatePeerAddress'
  | 'duplicatePeerMac'
  | 'duplicateLinkAddress'
  | 'duplicateMachineId'
  | 'peerUnreachable'
  | 'overlayBlocked'
  | 'underlayDown'
  | 'underlayFamily'
  | 'bridgeNetfilterMissing'
  | 'mtuTooSmall'
  | 'mtuTooLarge'
  | 'pathMtuTooSmall'
  | 'fullSizeLost'
  | 'checksumFault'
  | 'rpFilterStrict'
  | 'probesOff'
  | 'routeConflict'
  | 'rangeOverlapsRoute'
  | 'rangeOverlapsServices'
  | 'vxlanPortTaken'
  | 'forwardPolicyDrops'
  | 'inputPolicyDrops'
  | 'firewallManaged'
  | 'cniConfigFirst'
  | 'cniConfigBroken'
  | 'leftoverNetwork';

export const findingCatalogue: Readonly<Record<FindingName, FindingKind>> = {
  // The node
  notReady: {
    severity: 'error',
    symptom: 'Pods stay in ContainerCreating on one node',
    cause: 'The agent has not finished starting; `weft status` says what it waits for.',
    nextStep: 'Look at the last lines of the agent log.',
  },
  forwardingOff: {
    severity: 'error',
    symptom: 'Pods of a node reach nothing outside it',
    cause: 'net.ipv4.ip_forward (for IPv6 pods net.ipv6.conf.all.forwarding) is 0 and the agent may not write it.',
    nextStep: 'Switch the named one on (the message has the command) and find out what switches it off.',
  },
  ipv6Off: {
    severity: 'error',
    symptom: 'Pods of one node have no IPv6',
    cause: 'The pool has IPv6 ranges but this node has IPv6 switched off.',
    nextStep: 'Switch it on (sysctl -w net.ipv6.conf.all.disable_ipv6=0) and find out what switches it off.',
  },
  kernelFeatureMissing: {
    severity: 'error',
    symptom: 'The agent starts, but its log is full of refusals by the kernel',
    cause: 'The kernel lacks a feature that the datapath needs, or its module cannot be loaded.',
    nextStep:
      'Load or install the named module (Ubuntu: the package linux-modules-extra-$(uname -r); Debian: linux-image-amd64 in place of a cloud kernel).',
  },
  kernelRefused: {
    severity: 'warning',
    symptom: 'One pod, peer or address does not work while others do',
    cause: 'The kernel refused a change that Weft asked for; its words are in the message.',
    nextStep: 'The agent tries again by itself; its log has the kernel’s words.',
  },
  podLinkMissing: {
    severity: 'warning',
    symptom: 'A running pod has lost its network',
    cause: 'Something other than Weft removed the link of that pod.',
    nextStep: 'Recreate that pod: something removed its link.',
  },
  uplinkUnusable: {
    severity: 'error',
    symptom: 'Pods with `ipam.type: dhcp` do not start, or lose their addresses',
    cause: 'The link that the setting `dhcpUplink` names cannot be a port of the bridge `weftbr1`.',
    nextStep:
      'Name a link of this node that has no address and belongs to nothing else; the agent takes it as soon as it is free.',
  },
  pluginOwed: {
    severity: 'warning',
    symptom: 'An IPAM plugin (`ipam.type`) keeps addresses of pods that are gone',
    cause:
      'The plugin that had given the addresses could not be told that their pods are gone: its program or its daemon is not there, or it fails. The pods do not wait for it.',
    nextStep:
      'Put the plugin back, or mend what its words name: the agent tells it every ten seconds, and this goes by itself. If it is gone for good: docs/without-kubernetes.md.',
  },
  // Addresses
  registrySilent: {
    severity: 'warning',
    symptom: 'Nodes run out of addresses although the range has room',
    cause: 'The registry has not answered for long; pods start from owned space meanwhile.',
    nextStep:
      'Kubernetes: check that this node reaches the API server. Peers: check that a majority of the voters runs and that TCP 6783 (setting `peersPort`) is open between the nodes.',
  },
  certificateEnds: {
    severity: 'warning',
    symptom: 'After a certificate’s end nodes do not hear of each other; pods that run go on',
    cause: 'A certificate of registry `peers` ends within 60 days, or has ended.',
    nextStep:
      'Run `weft init` again on the first host, naming the hosts as before, then the lines that it prints, and restart the agents one after the other; certificates of your own: put new ones in place.',
  },
  fewAddresses: {
    severity: 'warning',
    symptom: 'ADD waits, or fails with noAddress',
    cause: 'This node has few free addresses left and has not been given more yet.',
    nextStep: 'See `weft ipam` for who holds the space.',
  },
  poolNearlyFull: {
    severity: 'warning',
    symptom: 'Soon no pod will get an address of a pool',
    cause: 'Nearly all addresses of the pool are with the nodes and leased.',
    nextStep: 'See `weft ipam` for who holds them; add a pool (docs/ipam.md) before they are gone.',
  },
  universeDeleted: {
    severity: 'warning',
    symptom: '`kubectl get weftuniverse` lacks a pool whose pods run',
    cause:
      'Somebody deleted the Universe. The default one is made again by the agents; of any other no further pod gets an address.',
    nextStep:
      'Recreate the pods of that pool elsewhere, or make its Universe again with the same ranges (docs/ipam.md, "Change a range").',
  },
  universeReplaced: {
    severity: 'error',
    symptom: 'New nodes get no addresses, or none of one node’s pods, after a Universe was made anew with other ranges',
    cause: 'The Universe names other ranges than those that the nodes hold space of. Nothing is given out of both.',
    nextStep: 'Put the earlier ranges back into the Universe, or finish the change: docs/ipam.md, "Change a range".',
  },
  blocksInTwoRecords: {
    severity: 'error',
    symptom: 'After etcd (or the voters) was restored a node says that another record has its blocks',
    cause:
      'The backup is older than a transfer or a takeover: the record of another node still has what this node knows as its own. If that one is gone others may take its record over 20 minutes after the restore; after 40 this node gives up and cuts its pods there.',
    nextStep:
      'Start the agent of the other node: it makes its record smaller itself. If it will not come back: `weft ipam reclaim RECORD` on this node (docs/ipam.md).',
  },
  spaceWithoutOwner: {
    severity: 'warning',
    symptom: 'Nodes run out of addresses although part of the range is with nobody',
    cause:
      'The record of a node was deleted by hand, and neither that node’s disk nor an heir knows any more what it held. Nobody takes it by itself: a disk that believes in it may be switched off.',
    nextStep:
      'When every node’s agent runs and has a record: `weft ipam reclaim` on one node, which then takes that space (docs/ipam.md).',
  },
  badBlock: {
    severity: 'warning',
    symptom: 'Pods of one node cannot be reached',
    cause: 'The record of that node names a block that is no CIDR.',
    nextStep: 'Look at that record (kubectl get weftpeers -o yaml) and at who has written it.',
  },
  blockOutsideRange: {
    severity: 'error',
    symptom: 'A node claims addresses that are not for pods',
    cause:
      'The record of that node has a block that lies outside the ranges of its pool, or in a reserved part. No agent writes that. No packet is sent there on its account.',
    nextStep:
      'Look at that record (kubectl get weftpeers -o yaml) and at who has written it: the token of that node may be in the wrong hands (docs/security.md).',
  },
  duplicateBlock: {
    severity: 'error',
    symptom: 'Pods of two nodes have addresses of the same block',
    cause: 'Two records claim one block; only the first by name is served.',
    nextStep: 'Look at both records and at who has written them; drain the node of the younger one.',
  },
  duplicateLease: {
    severity: 'error',
    symptom: 'Two pods of one node have the same address',
    cause: 'Two leases hold one address; only the first is served.',
    nextStep: 'Recreate the pod with the younger lease and report this: it is a defect.',
  },
  duplicateHostPort: {
    severity: 'error',
    symptom: 'A port of the node leads to another pod than expected',
    cause: 'Two leases claim one host port; only the first is served.',
    nextStep: 'Recreate the pod with the younger lease, or give it another hostPort.',
  },
  // Peers
  peerWithoutUnderlay: {
    severity: 'warning',
    symptom: 'Pods of one node cannot be reached from anywhere',
    cause: 'No underlay address of that node is known, or its record names one that is no address.',
    nextStep: 'Check that the node still exists and has an InternalIP, or is listed under `nodes`.',
  },
  duplicatePeerAddress: {
    severity: 'error',
    symptom: 'Pods of one of two cloned nodes cannot be reached',
    cause: 'Two nodes have the same underlay address; only the first by name is served.',
    nextStep: 'Give each node an underlay address of its own; a cloned machine keeps its original’s.',
  },
  duplicatePeerMac: {
    severity: 'error',
    symptom: 'Pods of one of two cloned nodes cannot be reached, although their addresses differ',
    cause: 'Two records lead to the same VTEP MAC.',
    nextStep: 'Remove the state directory of the younger one of two cloned machines and restart its agent.',
  },
  duplicateLinkAddress: {
    severity: 'warning',
    symptom: 'Traffic to two nodes comes and goes',
    cause: 'Two peers on this link have the same link address (MAC): cloned virtual machines.',
    nextStep: 'Give each machine a MAC of its own in the hypervisor.',
  },
  duplicateMachineId: {
    severity: 'warning',
    symptom: 'Two nodes get the same address by DHCP, or the same link addresses',
    cause: 'Two nodes have the same /etc/machine-id: cloned disks.',
    nextStep: 'On the clone: rm -f /etc/machine-id /var/lib/dbus/machine-id; systemd-machine-id-setup; reboot.',
  },
  peerUnreachable: {
    severity: 'warning',
    symptom: 'Pods of one node cannot be reached, and the node itself does not answer',
    cause: 'The peer answers neither on the underlay nor in the overlay.',
    nextStep: 'Check whether that node is up and its underlay address right (`weft peers`); ping it from this node.',
  },
  overlayBlocked: {
    severity: 'error',
    symptom: 'Nodes ping each other, pods of different nodes do not',
    cause: 'The peer answers on the underlay but not through the overlay: something drops the overlay’s UDP port.',
    nextStep:
      'Open the overlay’s UDP port (setting `vxlanPort`, 6784 unless you changed it) between the nodes in both directions: host firewalls, security groups of the cloud.',
  },
  // Path and MTU
  underlayDown: {
    severity: 'error',
    symptom: 'Pods of a node reach only each other',
    cause: 'The link that carries the overlay is down.',
    nextStep: 'Bring the link up; the overlay follows by itself.',
  },
  underlayFamily: {
    severity: 'error',
    symptom: 'Some nodes’ pods cannot be reached from this node',
    cause: 'The underlay addresses of the two nodes are of different families.',
    nextStep: 'Give all nodes an underlay address of one family.',
  },
  bridgeNetfilterMissing: {
    severity: 'error',
    symptom: 'A Service whose backend is on the client’s own node does not answer (pod links `bridge`)',
    cause: 'The kernel module br_netfilter is not loaded: answers between pods of one bridge do not pass conntrack.',
    nextStep: 'Load it (modprobe br_netfilter) and name it in /etc/modules-load.d; or use pod links `routed`.',
  },
  mtuTooSmall: {
    severity: 'error',
    symptom: 'IPv6 does not work in pods, or large answers never arrive',
    cause:
      'The underlay link’s MTU, or the setting `mtuBytes`, leaves less for pods than IP needs (1,280 bytes with IPv6, 576 otherwise). They get that much, in fragments.',
    nextStep: 'Raise what the message names, the MTU of the underlay link or the setting, to the named size.',
  },
  mtuTooLarge: {
    severity: 'warning',
    symptom: 'Connections open, then large transfers between nodes are slow or hang',
    cause: 'The setting `mtuBytes` is larger than the underlay link allows: every full packet is sent in fragments.',
    nextStep: 'Set `mtuBytes` to 0 (automatic), or to at most the named size.',
  },
  pathMtuTooSmall: {
    severity: 'warning',
    symptom: 'Connections between two nodes open, then hang with the first large answer',
    cause: 'Somewhere on the way to the peer the MTU is smaller than on this node’s link.',
    nextStep: 'Set `mtuBytes` to the named size on every node, or raise the MTU on the way.',
  },
  fullSizeLost: {
    severity: 'warning',
    symptom: 'ping between pods works, large transfers hang',
    cause: 'Packets of full size get lost in the overlay: fragments are dropped, or a network card spoils checksums.',
    nextStep:
      'Set `mtuBytes` smaller; if that does not help, switch off checksum offload of the underlay link (ethtool -K LINK tx off).',
  },
  checksumFault: {
    severity: 'warning',
    symptom: 'ping between pods works, TCP and UDP between nodes do not',
    cause: 'The underlay link’s driver spoils checksums of encapsulated packets.',
    nextStep:
      'Switch off the offload: ethtool -K LINK tx-udp_tnl-segmentation off tx-udp_tnl-csum-segmentation off tx off.',
  },
  rpFilterStrict: {
    severity: 'warning',
    symptom: 'Overlay mode `auto` stays on VXLAN, or answers to NodePorts get lost',
    cause: 'The reverse path filter of the underlay link is strict (1), which drops what takes another way back.',
    nextStep: 'Make it loose, which for every link is: sysctl -w net.ipv4.conf.all.rp_filter=2',
  },
  probesOff: {
    severity: 'warning',
    symptom: '`weft peers` shows no round trips',
    cause: 'The agent may not open ICMP sockets.',
    nextStep: 'Give the agent the capability NET_RAW.',
  },
  // What else is on the host
  routeConflict: {
    severity: 'error',
    symptom: 'Pods of one node cannot be reached from this node',
    cause: 'A route of somebody else has the same destination as one of Weft’s.',
    nextStep: 'Remove that route, or choose a range that does not overlap the routes of the hosts.',
  },
  rangeOverlapsRoute: {
    severity: 'error',
    symptom: 'Some addresses outside the cluster cannot be reached, or pods cannot',
    cause: 'The range of the pods overlaps a route or an address of this host.',
    nextStep:
      'Before the network is founded: choose another range (setting `ranges`), or reserve the overlap (`reserved`). Afterwards: take that route or address away, or change the range (docs/ipam.md, "Change a range").',
  },
  rangeOverlapsServices: {
    severity: 'error',
    symptom: 'Some Services lead to a pod that has nothing to do with them',
    cause: 'The range of the pods overlaps the Service range of the cluster.',
    nextStep:
      'Before the network is founded: choose another range (setting `ranges`), or reserve the overlap (`reserved`). Afterwards: change the range (docs/ipam.md, "Change a range"), or delete a ServiceCIDR that was added (kubectl delete servicecidr NAME) before Services use it.',
  },
  vxlanPortTaken: {
    severity: 'error',
    symptom: 'No pod of this node reaches pods of others',
    cause: 'Another program or VXLAN device has the overlay’s UDP port.',
    nextStep:
      'Stop the named program or delete the named device (one that is not shown may be in another network namespace: ip -all netns exec ip -d link show type vxlan), or set `vxlanPort` to a free port on every node.',
  },
  forwardPolicyDrops: {
    severity: 'error',
    symptom: 'Pods reach nothing outside their node; the FORWARD policy is DROP (Docker, ufw)',
    cause:
      'A firewall of this host drops forwarded packets by policy, and Weft may not or could not add its accept rules.',
    nextStep: 'Allow forwarding from and to the pods’ links in that chain, or set its policy to accept.',
  },
  inputPolicyDrops: {
    severity: 'error',
    symptom: 'Pods of other nodes do not reach this node’s; the INPUT policy is DROP (ufw)',
    cause:
      'A firewall of this host drops incoming packets by policy, and Weft may not or could not add its accept rule.',
    nextStep: 'Allow the overlay’s UDP port from the other nodes in that chain.',
  },
  firewallManaged: {
    severity: 'warning',
    symptom: 'Traffic of pods stops whenever the host’s firewall is reloaded',
    cause: 'firewalld or ufw manages this host’s firewall and removes rules that it did not make.',
    nextStep: 'Run the named command once; it makes the firewall itself let the pods through.',
  },
  cniConfigFirst: {
    severity: 'error',
    symptom: 'New pods get addresses of another network',
    cause: 'A file in the CNI configuration directory sorts before Weft’s, so the runtime uses that network.',
    nextStep: 'Remove or rename the named file.',
  },
  cniConfigBroken: {
    severity: 'warning',
    symptom: 'The runtime says that no network is configured although Weft is ready',
    cause: 'A file in the CNI configuration directory cannot be parsed, and some runtimes then stop reading.',
    nextStep: 'Repair or remove the named file.',
  },
  leftoverNetwork: {
    severity: 'warning',
    symptom: 'Some destinations are unreachable after a change from another pod network',
    cause:
      'Links, network configurations or packet filter rules of a former pod network (flannel, Weave Net and so on) are still there.',
    nextStep: 'Remove what it left; docs/leftovers.md has the commands for each network.',
  },
};

/** One condition found: what it is about, and the cause's particulars. */
export interface Condition {
  readonly name: FindingName;
  /** A peer, a link, an address, a file. */
  readonly subject: string;
  readonly message: string;
}
