// Who the nodes are. Two sources: `static` (the configuration lists them) and `kubernetes` (Node objects). IPAM's records say
// who owns which block; discovery says where a node's underlay is, and whether the node exists at all.

export interface NodeIdentity {
  readonly nodeName: string;
  /** Kubernetes: metadata.uid of the Node. Static: an id made once and kept in the state directory; '' for other nodes. */
  readonly nodeUid: string;
  /** Node addresses usable as the VXLAN underlay, preferred first; plain addresses. */
  readonly underlayAddresses: readonly string[];
  /** /etc/machine-id of the node, where the source knows it: two nodes with one are clones. */
  readonly machineId?: string;
}

/** What a peer's record says of its node. */
export interface PeerNode {
  readonly name: string;
  readonly uid: string;
  readonly underlay: readonly string[];
  /** Another peer takes its space over, which none does while the node is there. */
  readonly takenOver: boolean;
}

export interface PeerNodes {
  /** Nodes of all other peers. */
  peerNodes(): readonly PeerNode[];
  /** Those whose space this node would be among the first 3 × `turns` to take over: it notices when they are gone. */
  wards(turns: number): readonly PeerNode[];
  onChange(listener: () => void): () => void;
}

export interface Discovery {
  readonly self: NodeIdentity;
  /** Every known node, self included. */
  nodes(): readonly NodeIdentity[];
  /** The uids of nodes that were looked for and are gone; where nobody can tell there is none. */
  goneUids?(): ReadonlySet<string>;
  /** Looks for the nodes of these peers from now on, as far as it has not heard of them; returns how to stop. */
  attend?(peers: PeerNodes): () => void;
  /** Whether this very node (name and uid) exists, read from the source. Throws WeftError('registry') when nobody answers. */
  nodeExists?(node: { readonly name: string; readonly uid: string }, signal: AbortSignal): Promise<boolean>;
  /** Called after each change; returns the way to stop it. */
  onChange(listener: () => void): () => void;
  close(): Promise<void>;
}
