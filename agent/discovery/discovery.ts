// Who the nodes are. Two sources: `static` (the configuration lists them) and `kubernetes` (Node objects). IPAM's records say
// who owns which block; discovery says where a node's underlay is, and whether the node exists at all.

export interface NodeIdentity {
  readonly nodeName: string;
  /** Kubernetes: metadata.uid of the Node. Static: an id made once and kept in the state directory; '' for other nodes. */
  readonly nodeUid: string;
  /** Node addresses usable as the VXLAN underlay, preferred first; plain addresses. */
  readonly underlayAddresses: readonly string[];
}

export interface Discovery {
  readonly self: NodeIdentity;
  /** Every known node, self included. */
  nodes(): readonly NodeIdentity[];
  /** Called after each change; returns the way to stop it. */
  onChange(listener: () => void): () => void;
  close(): Promise<void>;
}
