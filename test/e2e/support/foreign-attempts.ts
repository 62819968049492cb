// What a stolen token of node a may try outside its own record and others': to make a range of its own, to mislead the policies by labels
// and names, and whatever the agents' role gives nobody.
import type { KubeRequest } from '#agent/kubernetes/api.ts';
import { nodePart, partLabel } from '#agent/kubernetes/node-part.ts';
import type { Attempt } from './block-attempts.ts';
import type { PrivilegeWorld } from './privilege-world.ts';
import {
  creation,
  events,
  eventOf,
  leases,
  patch,
  refTo,
  session,
  stored,
  universeOf,
  universes,
  withSpec,
} from './weft-objects.ts';

const otherThan = (digit: string | undefined): string => (digit === '0' ? '1' : '0');

const labelling = (node: string, labels: object): KubeRequest =>
  patch(`/api/v1/nodes/${node}/status`, { metadata: { labels } });

const nodesAndRanges = (world: () => PrivilegeWorld): readonly Attempt[] => [
  [
    'to make a pool, whose founder it would be',
    'weft-universes',
    async () => creation(universeOf('evil', '192.168.0.0/16'), universes),
  ],
  [
    'to make the default pool for chosen namespaces',
    'weft-universes',
    async () => {
      const universe = universeOf('default', '10.32.0.0/12') as { readonly spec: object };
      return creation({ ...universe, spec: { ...universe.spec, namespaces: ['kube-system'] } }, universes);
    },
  ],
  [
    'to hide its Node from those that a takeover is compared with',
    'weft-node-status',
    async () => labelling('a', { [partLabel]: otherThan(nodePart(world().a.nodeUid)) }),
  ],
  ['to hide it by taking the label away', 'weft-node-status', async () => labelling('a', { [partLabel]: null })],
  [
    'to hide another’s Node',
    'weft-node-status',
    async () => labelling('b', { [partLabel]: otherThan(nodePart(world().b.nodeUid)) }),
  ],
  [
    'to label another’s Node rightly',
    'weft-node-status',
    async () => labelling(world().plain.node, { [partLabel]: nodePart(world().plain.nodeUid) }),
  ],
  [
    'to label its Node otherwise',
    'weft-node-status',
    async () => labelling('a', { 'node-role.kubernetes.io/control-plane': '' }),
  ],
  [
    'to become the heir of a living node whose Node has no label',
    'weft-takeover',
    async () => withSpec(world().plain, { heir: refTo(await stored(world().a)) }),
  ],
  [
    'to become the heir of a living node under another part',
    'weft-peers',
    async () => {
      const { a, b } = world();
      const request = await withSpec(b, { heir: refTo(await stored(a)) });
      const body = request.body as { readonly metadata: { readonly labels: object } };
      const labels = { ...body.metadata.labels, [partLabel]: otherThan(nodePart(b.nodeUid)) };
      return { ...request, body: { ...body, metadata: { ...body.metadata, labels } } };
    },
  ],
  [
    'to delete the session of a node whose name looks like a pool’s',
    'weft-takeover',
    async () => ({ method: 'DELETE', path: `${leases}/${world().dotted.record}` }),
  ],
  [
    'to delete a living node’s session in a pool',
    'weft-takeover',
    async () => ({ method: 'DELETE', path: `${leases}/${world().dotted.record}.pool-blue` }),
  ],
  [
    'to make a session that is found among another part’s',
    'weft-sessions',
    async () => {
      const { a } = world();
      const lease = session(a) as { readonly metadata: object };
      const labels = { [partLabel]: otherThan(nodePart(a.nodeUid)) };
      return creation({ ...lease, metadata: { ...lease.metadata, labels } }, leases);
    },
  ],
];

const podOf = (name: string): object => ({
  apiVersion: 'v1',
  kind: 'Pod',
  metadata: { name, namespace: 'weft' },
  spec: { hostNetwork: true, containers: [{ name: 'x', image: 'x', securityContext: { privileged: true } }] },
});

const neverGiven = (world: () => PrivilegeWorld): readonly Attempt[] => [
  ['to delete all sessions', 'cannot deletecollection', async () => ({ method: 'DELETE', path: leases })],
  ['to delete all universes', 'cannot deletecollection', async () => ({ method: 'DELETE', path: universes })],
  ['to patch a session', 'cannot patch', async () => patch(`${leases}/${world().b.record}`, { spec: {} })],
  [
    'to read the kubelets’ leases',
    'cannot list',
    async () => ({ method: 'GET', path: leases.replace('/weft/', '/kube-node-lease/') }),
  ],
  ['to run a pod', 'cannot create', async () => creation(podOf('mine'), '/api/v1/namespaces/weft/pods')],
  [
    'to run a command in another agent',
    'cannot create',
    async () => ({ method: 'POST', path: '/api/v1/namespaces/weft/pods/agent-b/exec' }),
  ],
  [
    'to evict another agent',
    'cannot create',
    async () =>
      creation({ apiVersion: 'policy/v1', kind: 'Eviction' }, '/api/v1/namespaces/weft/pods/agent-b/eviction'),
  ],
  ['to ask a kubelet', 'cannot get', async () => ({ method: 'GET', path: '/api/v1/nodes/b/proxy/pods' })],
  [
    'to ask for a certificate',
    'cannot create',
    async () => creation({}, '/apis/certificates.k8s.io/v1/certificatesigningrequests'),
  ],
  [
    'to ask what others may',
    'cannot create',
    async () => creation({}, '/apis/authorization.k8s.io/v1/subjectaccessreviews'),
  ],
  [
    'to widen its own role',
    'cannot patch',
    async () => patch('/apis/rbac.authorization.k8s.io/v1/clusterroles/weft', { rules: [] }),
  ],
  [
    'to loosen the definition of a Peer',
    'cannot patch',
    async () => patch('/apis/apiextensions.k8s.io/v1/customresourcedefinitions/peers.weft.network', { spec: {} }),
  ],
  [
    'to relabel its namespace',
    'cannot patch',
    async () => patch('/api/v1/namespaces/weft', { metadata: { labels: {} } }),
  ],
  [
    'to read another Service than the API server’s',
    'cannot get',
    async () => ({ method: 'GET', path: '/api/v1/namespaces/kube-system/services/kube-dns' }),
  ],
  [
    'to send a Service’s requests elsewhere',
    'cannot create',
    async () => creation({}, '/apis/discovery.k8s.io/v1/namespaces/default/endpointslices'),
  ],
  [
    'to tell of its Node in another namespace',
    'cannot create',
    async () => creation(eventOf(world().a), events.replace('/default/', '/kube-system/')),
  ],
  ['to read Events', 'cannot list', async () => ({ method: 'GET', path: events })],
];

export function foreignAttempts(world: () => PrivilegeWorld): readonly Attempt[] {
  return [...nodesAndRanges(world), ...neverGiven(world)];
}
