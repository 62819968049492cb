// The Helm chart is made of the kustomize base: the same text, with the places that values fill. Nothing is said twice, and with
// its default values it renders to what deploy/weft.yaml holds (a test with the real Helm compares the two).
import { settings } from '../agent/config/settings.ts';

/** Text of the base, and what stands there in the chart. */
type Replacement = readonly [base: string, chart: string];

const everywhere: readonly Replacement[] = [
  ['  namespace: weft\n', '  namespace: {{ .Values.namespace | default "weft" }}\n'],
  ['kubernetes.io/metadata.name: weft\n', 'kubernetes.io/metadata.name: {{ .Values.namespace | default "weft" }}\n'],
  ["'system:serviceaccount:weft:weft'", `'system:serviceaccount:{{ .Values.namespace | default "weft" }}:weft'`],
];

const probe = (path: string): Replacement => [
  `            httpGet: { host: 127.0.0.1, port: 6785, path: ${path} }\n`,
  `            httpGet: { host: {{ $host | quote }}, port: {{ regexFind "[0-9]+$" $asked }}, path: ${path} }\n`,
];
/** Without the status API the probes ask where the metrics are; without both nobody answers them. */
const asked = `{{- $asked := (.Values.settings | default dict).statusListen | default "127.0.0.1:6785" }}
{{- if eq $asked "off" }}{{ $asked = (.Values.settings | default dict).metricsListen | default ":6782" }}{{ end }}
{{- if eq $asked "off" }}{{ fail "settings.statusListen and settings.metricsListen are both off: the kubelet's probes need one of them" }}{{ end }}
{{- $host := regexReplaceAll \`^\\[?([^\\]]*)\\]?:[0-9]+$\` $asked "\${1}" | default "127.0.0.1" }}
`;

/** Each must be found in its file. */
const inFile: Readonly<Record<string, readonly Replacement[]>> = {
  'namespace.yaml': [['metadata:\n  name: weft\n', 'metadata:\n  name: {{ .Values.namespace | default "weft" }}\n']],
  'configmap.yaml': [['    {}\n', '{{ .Values.settings | default dict | toPrettyJson | indent 4 }}\n']],
  'daemonset.yaml': [
    ['maxUnavailable: 10%', 'maxUnavailable: {{ .Values.maxUnavailable | default "10%" }}'],
    [
      '    metadata:\n      labels:\n        app.kubernetes.io/name: weft\n    spec:\n',
      `    metadata:
      labels:
        app.kubernetes.io/name: weft
      {{- if or .Values.settings .Values.podAnnotations }}
      annotations:
        {{- with .Values.settings }}
        weft.network/settings: {{ toJson . | sha256sum }}
        {{- end }}
        {{- with .Values.podAnnotations }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- end }}
    spec:
      {{- with .Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
`,
    ],
    [
      '      nodeSelector:\n        kubernetes.io/os: linux\n',
      '      nodeSelector:\n        {{- toYaml .Values.nodeSelector | nindent 8 }}\n',
    ],
    [
      '      tolerations:\n        - operator: Exists\n',
      '      tolerations:\n        {{- toYaml .Values.tolerations | nindent 8 }}\n',
    ],
    ['image: weft\n', 'image: {{ .Values.image | default (printf "localhost/weft:%s" .Chart.AppVersion) }}\n'],
    ['imagePullPolicy: IfNotPresent', 'imagePullPolicy: {{ .Values.imagePullPolicy }}'],
    [
      '          resources:\n            requests:\n              cpu: 50m\n              memory: 128Mi\n            limits:\n              memory: 512Mi\n',
      '          resources:\n            {{- toYaml .Values.resources | nindent 12 }}\n',
    ],
    ['containerPort: 6782\n', `containerPort: {{ ${listenPort('metricsListen', '6782')} }}\n`],
    probe('/healthz'),
    probe('/readyz'),
  ],
};

function listenPort(setting: string, fallback: string): string {
  return `regexFind "[0-9]+$" ((.Values.settings | default dict).${setting} | default ":${fallback}") | default "${fallback}"`;
}

/** Files of the base that are not templates: Helm makes what is in crds/ first, and never takes it away. */
const definitions = 'crd.yaml';

/** The chart's files by their path in deploy/helm, from the base's by name. Throws when a place for a value is not there. */
export function chartFiles(
  base: Readonly<Record<string, string>>,
  optional: Readonly<Record<string, string>>,
  version: string,
): Readonly<Record<string, string>> {
  const files: Record<string, string> = {
    'Chart.yaml': chartYaml(version),
    'values.schema.json': `${JSON.stringify(valuesSchema(), undefined, 2)}\n`,
  };
  for (const [name, text] of Object.entries(base)) {
    if (name === definitions) files[`crds/${name}`] = text;
    else files[`templates/${name}`] = template(name, text);
  }
  for (const [value, text] of Object.entries(optional)) {
    const body = template(value, escapeBraces(text));
    files[`templates/${value.toLowerCase()}.yaml`] =
      `{{- if (.Values.monitoring | default dict).${value} }}\n${body}{{- end }}\n`;
  }
  return files;
}

function template(name: string, base: string): string {
  let text = base;
  for (const [from, to] of everywhere) text = text.replaceAll(from, to);
  for (const [from, to] of inFile[name] ?? []) {
    if (!text.includes(from)) throw new Error(`deploy/base/${name} does not hold ${JSON.stringify(from)}`);
    text = text.replaceAll(from, to);
  }
  return text.includes('$asked') ? asked + text : text;
}

/** Prometheus and Grafana have braces of their own. */
function escapeBraces(text: string): string {
  return text.replaceAll(/\{\{.*?\}\}/g, (braces) => `{{ ${JSON.stringify(braces)} }}`);
}

function chartYaml(version: string): string {
  return `# Generated from deploy/base by deploy/generate.ts, as everything here but values.yaml and NOTES.txt.
apiVersion: v2
name: weft
description: 'A Kubernetes pod network: one agent per node, no pod CIDRs to plan'
type: application
version: ${version}
appVersion: ${version}
kubeVersion: '>=1.30.0-0'
`;
}

/** Settings that the chart itself, or each node, sets. */
const notForHelm = ['nodeName', 'namespace'];
/** What a text must look like, as far as a pattern can say it; the agent says the rest. */
const patterns: Readonly<Record<string, string>> = {
  listen: '^(off|(\\[[0-9a-fA-F:.]+\\]|[0-9.]*|localhost):[0-9]{1,5})$',
  range: '^[0-9a-fA-F:.]+/[0-9]{1,3}$',
  cidr: '^[0-9a-fA-F:.]+/[0-9]{1,3}$',
  optionalServer: '^(https://.+)?$',
};
/** What a JSON schema says, without the notes of the settings table. */
const schemaWords = ['type', 'enum', 'minimum', 'maximum', 'maxLength', 'maxItems', 'uniqueItems', 'description'];

function valuesSchema(): unknown {
  const text = { type: 'string' };
  const open = { type: 'object' };
  return {
    $schema: 'http://json-schema.org/draft-07/schema#',
    title: 'Values of the chart weft',
    type: 'object',
    additionalProperties: false,
    properties: {
      // Helm passes these to every chart.
      global: open,
      image: text,
      imagePullPolicy: { enum: ['IfNotPresent', 'Always', 'Never'] },
      imagePullSecrets: { type: 'array', items: { type: 'object', properties: { name: text }, required: ['name'] } },
      namespace: { type: 'string', pattern: '^[a-z0-9]([-a-z0-9]*[a-z0-9])?$', maxLength: 63 },
      settings: { type: 'object', additionalProperties: false, properties: settingsSchema() },
      resources: open,
      nodeSelector: open,
      tolerations: { type: 'array', items: open },
      maxUnavailable: { type: ['string', 'integer'], pattern: '^([1-9][0-9]?|100)%$', minimum: 1 },
      podAnnotations: { type: 'object', additionalProperties: text },
      monitoring: {
        type: 'object',
        additionalProperties: false,
        properties: Object.fromEntries(
          ['podMonitor', 'prometheusRule', 'dashboard'].map((part) => [part, { type: 'boolean' }]),
        ),
      },
    },
  };
}

function settingsSchema(): unknown {
  const shown = Object.entries(settings).filter(([name]) => !notForHelm.includes(name));
  return Object.fromEntries(shown.map(([name, setting]) => [name, plainSchema(setting)]));
}

function plainSchema(schema: object): unknown {
  const given = schema as Readonly<Record<string, unknown>>;
  const plain: Record<string, unknown> = Object.fromEntries(
    schemaWords.filter((word) => word in given).map((word) => [word, given[word]]),
  );
  const { items, format } = given;
  const pattern = patterns[String(format)];
  if (pattern !== undefined) plain['pattern'] = pattern;
  return typeof items === 'object' && items !== null ? { ...plain, items: plainSchema(items) } : plain;
}
