// The Grafana dashboard, written down as its questions: one panel each, two in a row. deploy/generate.ts makes the JSON of it.

interface Panel {
  readonly title: string;
  readonly description: string;
  readonly unit: string;
  readonly queries: Readonly<Record<string, string>>;
}

const panels: readonly Panel[] = [
  {
    title: 'Nodes that can start pods',
    description: 'Agents that are ready, of all that answer.',
    unit: 'none',
    queries: { ready: 'sum(weft_ready)', agents: 'count(weft_ready)', 'nodes with a record': 'max(weft_peers)' },
  },
  {
    title: 'Findings',
    description: 'What `weft status` names, by severity.',
    unit: 'none',
    queries: { '{{node}} {{severity}}': 'weft_findings > 0' },
  },
  {
    title: 'Free addresses',
    description: 'A node below 32 asks others for more.',
    unit: 'none',
    queries: { '{{node}}': 'weft_addresses{state="free"}' },
  },
  {
    title: 'Leased addresses',
    description: 'Pods, by node.',
    unit: 'none',
    queries: { '{{node}}': 'weft_addresses{state="leased"}' },
  },
  {
    title: 'Time of a pod’s ADD',
    description: 'From the arrival of the call to its answer.',
    unit: 's',
    queries: {
      'half of them':
        'histogram_quantile(0.5, sum by (le) (rate(weft_cni_duration_seconds_bucket{command="ADD"}[5m])))',
      '99 of 100': 'histogram_quantile(0.99, sum by (le) (rate(weft_cni_duration_seconds_bucket{command="ADD"}[5m])))',
    },
  },
  {
    title: 'CNI calls',
    description: 'By verb and error code; 0 is success.',
    unit: 'ops',
    queries: { '{{command}} {{code}}': 'sum by (command, code) (rate(weft_cni_requests_total[5m]))' },
  },
  {
    title: 'Silence of the registry',
    description: 'Pods start from owned space meanwhile.',
    unit: 's',
    queries: { '{{node}}': 'weft_registry_silence_seconds' },
  },
  {
    title: 'Repairs of kernel objects',
    description: 'Something else changes what Weft programs.',
    unit: 'none',
    queries: { '{{node}}': 'increase(weft_datapath_repairs_total[10m])' },
  },
  {
    title: 'Blocks of all nodes',
    description: 'Each is a route on every node.',
    unit: 'none',
    queries: { blocks: 'max(weft_peer_blocks)' },
  },
  {
    title: 'Memory of the agents',
    description: 'Resident.',
    unit: 'bytes',
    queries: { '{{node}}': 'process_resident_memory_bytes{job=~".*weft.*"}' },
  },
];

const datasource = { type: 'prometheus', uid: '${datasource}' } as const;

function panelJson(panel: Panel, index: number): unknown {
  const [width, height] = [12, 8];
  return {
    id: index + 1,
    type: 'timeseries',
    title: panel.title,
    description: panel.description,
    datasource,
    gridPos: { x: (index % 2) * width, y: Math.floor(index / 2) * height, w: width, h: height },
    fieldConfig: { defaults: { unit: panel.unit, min: 0 }, overrides: [] },
    targets: Object.entries(panel.queries).map(([legendFormat, expr], at) => ({
      refId: String.fromCodePoint('A'.codePointAt(0)! + at),
      expr,
      legendFormat,
      datasource,
    })),
  };
}

/** Every query, for a test that compares the metrics it names with those that exist. */
export const dashboardQueries: readonly string[] = panels.flatMap((panel) => Object.values(panel.queries));

/** The dashboard as Grafana imports it. */
export function dashboardJson(): string {
  const dashboard = {
    uid: 'weft',
    title: 'Weft',
    tags: ['weft', 'network'],
    schemaVersion: 39,
    editable: true,
    refresh: '1m',
    time: { from: 'now-6h', to: 'now' },
    templating: { list: [{ name: 'datasource', type: 'datasource', query: 'prometheus', label: 'Data source' }] },
    panels: panels.map(panelJson),
  };
  return JSON.stringify(dashboard, undefined, 2);
}
