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

export interface Discovery {
  readonly self: NodeIdentity;
  /** Every known node, self included. */
  nodes(): readonly NodeIdentity[];
  /** The uids of all nodes that exist; undefined while no whole list was read, or where nobody lists them. */
  nodeUids?(): ReadonlySet<string> | undefined;
  /** Whether this very node (name and uid) exists, read from the source. Throws WeftError('registry') when nobody answers. */
  nodeExists?(node: { readonly name: string; readonly uid: string }, signal: AbortSignal): Promise<boolean>;
  /** Called after each change; returns the way to stop it. */
  onChange(listener: () => void): () => void;
  close(): Promise<void>;
}
