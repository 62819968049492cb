// The settings: each source, their order, every kind of bad value with the words it is refused in, and the generated page.
import { hostname } from 'node:os';
import { describe, expect, it } from 'vitest';
import { loadConfig } from '#agent/config.ts';
import type { LoadedConfig } from '#agent/config.ts';
import { hostPort, rangesOverlap } from '#agent/config/formats.ts';
import { settingsHelp, settingsMarkdown } from '#agent/config/help.ts';
import { settings } from '#agent/config/settings.ts';
import { environmentName, flagName } from '#agent/config/sources.ts';
import { WeftError } from '#agent/errors.ts';

interface Given {
  readonly file?: unknown;
  readonly env?: Readonly<Record<string, string>>;
  readonly argv?: readonly string[];
}

const path = '/etc/weft/config.json';

function load({ file, env = {}, argv = [] }: Given): LoadedConfig {
  return loadConfig({
    argv,
    env,
    readFile: (asked) => {
      if (file === undefined || asked !== path) throw Object.assign(new Error('none'), { code: 'ENOENT' });
      return typeof file === 'string' ? file : JSON.stringify(file);
    },
  });
}

function refusal(given: Given): string {
  try {
    load(given);
  } catch (error) {
    expect(error).toBeInstanceOf(WeftError);
    expect((error as WeftError).kind).toBe('invalidSetting');
    return (error as WeftError).message;
  }
  throw new Error(`accepted: ${JSON.stringify(given)}`);
}

describe('defaults', () => {
  it('works with nothing given at all', () => {
    const { config, sources, notes } = load({});
    expect(config).toMatchObject({
      nodeName: hostname().toLowerCase(),
      registry: 'kubernetes',
      discovery: 'kubernetes',
      ranges: ['10.32.0.0/12'],
      vxlanPort: 6784,
      peersPort: 6783,
      metricsListen: ':6782',
      statusListen: '127.0.0.1:6785',
      socket: '/run/weft/cni.sock',
      spoolDir: '/var/lib/weft/spool',
    });
    expect(sources.size).toBe(0);
    expect(notes).toEqual([]);
  });

  it('freezes every level', () => {
    const { config } = load({});
    expect(() => (config.ranges as string[]).push('10.0.0.0/8')).toThrow(TypeError);
    expect(() => Object.assign(config, { vxlanPort: 1 })).toThrow(TypeError);
  });

  it('does not share default lists between two loads', () => {
    expect(load({}).config.ranges).not.toBe(load({}).config.ranges);
  });

  it('derives paths from the directories', () => {
    const { config } = load({ file: { runDir: '/tmp/r', stateDir: '/tmp/s' } });
    expect([config.socket, config.spoolDir]).toEqual(['/tmp/r/cni.sock', '/tmp/s/spool']);
  });

  it('puts static discovery under the peers registry', () => {
    const file = { registry: 'peers', nodeName: 'a', nodes: [{ name: 'a', addresses: ['192.0.2.1'] }], voters: ['a'] };
    expect(load({ file }).config.discovery).toBe('static');
  });
});

describe('sources', () => {
  it('lets flags win over the environment, that over Weave’s names, those over the file, that over defaults', () => {
    const file = { mtuBytes: 1300, vxlanPort: 1 };
    const weave = { WEAVE_MTU: '1301' };
    const own = { ...weave, WEFT_MTU_BYTES: '1302' };
    expect(load({ file }).config.mtuBytes).toBe(1300);
    expect(load({ file, env: weave }).config.mtuBytes).toBe(1301);
    expect(load({ file, env: own }).config.mtuBytes).toBe(1302);
    const { config, sources } = load({ file, env: own, argv: ['--mtu-bytes', '1303'] });
    expect(config.mtuBytes).toBe(1303);
    expect(sources.get('mtuBytes')).toBe('flag --mtu-bytes');
    expect(sources.get('vxlanPort')).toBe(`file ${path}`);
  });

  it('takes --flag=value, WEFT_CONFIG and --config', () => {
    expect(load({ argv: ['--log-level=debug'] }).config.logLevel).toBe('debug');
    const readFile = (asked: string): string => JSON.stringify({ nodeName: asked === '/a' ? 'from-a' : 'from-b' });
    expect(loadConfig({ argv: [], env: { WEFT_CONFIG: '/a' }, readFile }).config.nodeName).toBe('from-a');
    expect(loadConfig({ argv: ['--config=/b'], env: { WEFT_CONFIG: '/a' }, readFile }).config.nodeName).toBe('from-b');
  });

  it('reads lists from text', () => {
    const env = { WEFT_NODES: 'a=192.0.2.1, b=192.0.2.2+2001:db8::2', WEFT_NODE_NAME: 'a', WEFT_DISCOVERY: 'static' };
    expect(load({ env }).config.nodes).toEqual([
      { name: 'a', addresses: ['192.0.2.1'] },
      { name: 'b', addresses: ['192.0.2.2', '2001:db8::2'] },
    ]);
    expect(load({ env: { IPALLOC_RANGE: '10.40.0.0/16' } }).config.ranges).toEqual(['10.40.0.0/16']);
  });

  it('counts an empty variable as not set', () => {
    expect(load({ env: { WEFT_VXLAN_PORT: '', WEAVE_PASSWORD: '' } }).config.vxlanPort).toBe(6784);
  });

  it('passes over the variables that Kubernetes makes for a Service named weft', () => {
    const env = {
      WEFT_SERVICE_HOST: '10.96.0.9',
      WEFT_SERVICE_PORT_METRICS: '6782',
      WEFT_PORT: 'tcp://10.96.0.9:6782',
      WEFT_VXLAN_PORT: 'tcp://10.96.0.9:1',
      WEFT_PORT_6782_TCP_PROTO: 'tcp',
    };
    expect(load({ env }).config.vxlanPort).toBe(6784);
  });

  it('tells which of Weave’s variables mean nothing here', () => {
    expect(load({ env: { CONN_LIMIT: '100' } }).notes).toEqual([expect.stringMatching(/^CONN_LIMIT is Weave Net's/)]);
  });

  it('fails on a file that was named and is not there, not on a missing default file', () => {
    expect(refusal({ argv: ['--config', '/nowhere.json'] })).toBe(
      'configuration file /nowhere.json cannot be read: ENOENT',
    );
  });
});

const peers = { registry: 'peers', nodeName: 'a', nodes: [{ name: 'a', addresses: ['192.0.2.1'] }], voters: ['a'] };

describe('refusals', () => {
  const cases: readonly (readonly [string, Given, RegExp])[] = [
    ...[
      ['WEFT_VXLAN_PORT', '0'],
      ['WEFT_VXLAN_PORT', '65536'],
      ['WEFT_VXLAN_PORT', 'vxlan'],
      ['WEFT_VXLAN_VNI', '0'],
      ['WEFT_VXLAN_VNI', '16777216'],
      ['WEFT_MTU_BYTES', '575'],
      ['WEFT_MTU_BYTES', '65486'],
      ['WEFT_MTU_BYTES', '-1'],
      ['WEFT_OVERLAY_MODE', 'geneve'],
      ['WEFT_POD_LINK', 'macvlan'],
      ['WEFT_UNDERLAY_ADDRESS', '127.0.0.1'],
      ['WEFT_UNDERLAY_ADDRESS', '224.0.0.1'],
      ['WEFT_UNDERLAY_ADDRESS', '::'],
      ['WEFT_UNDERLAY_ADDRESS', 'fe80::1'],
      ['WEFT_UNDERLAY_ADDRESS', '192.0.2.1/24'],
    ].map(([name = '', value = '']): (typeof cases)[number] => [
      `${name}=${value}`,
      { env: { [name]: value } },
      new RegExp(`environment ${name}.* is not allowed`),
    ]),
    [
      'port out of range',
      { env: { WEFT_VXLAN_PORT: '70000' } },
      /^vxlanPort: 70000 \(environment WEFT_VXLAN_PORT\) is not allowed: it must be a whole number from 1 to 65535$/,
    ],
    [
      'port that is no number',
      { argv: ['--vxlan-port', 'many'] },
      /^vxlanPort: "many" \(flag --vxlan-port\) .* whole number/,
    ],
    ['number as text in the file', { file: { vxlanPort: '6784' } }, /^vxlanPort: "6784" \(file .*whole number/],
    ['fraction', { file: { vxlanPort: 1.5 } }, /vxlanPort: 1.5/],
    ['unknown choice', { env: { WEFT_REGISTRY: 'etcd' } }, /^registry: "etcd" .* one of kubernetes, peers$/],
    [
      'bits beyond the prefix',
      { env: { IPALLOC_RANGE: '10.32.1.0/12' } },
      /^ranges \(item 0\): "10\.32\.1\.0\/12" \(environment IPALLOC_RANGE\)/,
    ],
    ['no range at all', { file: { ranges: [] } }, /^ranges: \[\]/],
    ['link-local IPv6 range', { file: { ranges: ['fe80::/64'] } }, /ranges \(item 0\)/],
    ['IPv6 range beyond /120', { file: { ranges: ['fd00::/121'] } }, /from \/32 to \/120/],
    ['IPv6 range with host bits', { file: { ranges: ['fd00::1/64'] } }, /ranges \(item 0\)/],
    ['pool without a name', { file: { pools: ['10.64.0.0/16'] } }, /pools \(item 0\).*a name/],
    ['pool without a range', { file: { pools: ['blue='] } }, /pools \(item 0\)/],
    ['second default pool', { file: { pools: ['default=10.64.0.0/16'] } }, /pools \(item 0\)/],
    [
      'pool over the range',
      { env: { WEFT_POOLS: 'blue=10.64.0.0/16+10.40.0.0/16' } },
      /^pools: .*10\.40\.0\.0\/16 of blue overlaps 10\.32\.0\.0\/12 of ranges/,
    ],
    [
      'two pools that overlap',
      { file: { pools: ['a=10.64.0.0/16', 'b=10.64.1.0/24'] } },
      /10\.64\.1\.0\/24 of b overlaps 10\.64\.0\.0\/16 of a/,
    ],
    ['multicast range', { file: { ranges: ['224.0.0.0/8'] } }, /ranges \(item 0\)/],
    ['loopback range', { file: { ranges: ['127.0.0.0/8'] } }, /ranges \(item 0\)/],
    ['overlapping ranges', { file: { ranges: ['10.32.0.0/12', '10.40.0.0/16'] } }, /^ranges: .* overlaps/],
    ['tiny range', { file: { ranges: ['10.0.0.0/30'] } }, /from \/8 to \/28/],
    ['relative path', { file: { stateDir: 'var' } }, /^stateDir: "var" .* absolute path/],
    ['path upwards', { file: { stateDir: '/var/../etc' } }, /^stateDir/],
    ['socket path too long', { file: { socket: `/${'a'.repeat(107)}` } }, /^socket: .*107 bytes/],
    [
      'run directory that makes the socket too long',
      { file: { runDir: `/${'a'.repeat(103)}` } },
      /^socket: .*default.*107/,
    ],
    ['conflist name', { file: { conflistPath: '/etc/cni/net.d/05-weft.conf' } }, /\.conflist/],
    ['listen address', { file: { statusListen: 'localhost' } }, /^statusListen: "localhost"/],
    ['MTU between', { env: { WEAVE_MTU: '100' } }, /^mtuBytes: 100 .* 576/],
    ['API server without scheme', { env: { WEFT_API_SERVER: '192.0.2.1:6443' } }, /^apiServer: .*https:\/\/host:port/],
    ['namespace', { file: { namespace: 'a.b' } }, /^namespace: "a\.b" .* DNS label/],
    ['interface name', { file: { underlayInterface: 'averyveryverylongname' } }, /^underlayInterface/],
    ['node name', { env: { WEFT_NODE_NAME: 'Node_1' } }, /^nodeName: "Node_1"/],
    ['unknown flag', { argv: ['--vxlan-prt', '1'] }, /^unknown flag "--vxlan-prt"; did you mean --vxlan-port\?$/],
    [
      'unknown variable',
      { env: { WEFT_VXLANPORT: '1' } },
      /^unknown environment variable WEFT_VXLANPORT; did you mean WEFT_VXLAN_PORT\?$/,
    ],
    ['unknown key', { file: { vxlanport: 1 } }, /^unknown setting "vxlanport" in .*; did you mean vxlanPort\?$/],
    [
      'a key of Object.prototype',
      { file: '{"__proto__": 1, "constructor": 2}' },
      /^unknown setting "__proto__" in .*\nunknown setting "constructor"/,
    ],
    ['stray argument', { argv: ['extra'] }, /^unknown argument "extra"$/],
    ['flag without value', { argv: ['--vxlan-port'] }, /^flag --vxlan-port needs a value$/],
    ['flag twice', { argv: ['--vxlan-port', '1', '--vxlan-port=2'] }, /given twice/],
    ['broken JSON', { file: '{' }, /is not usable/],
    ['a list as file', { file: '[]' }, /must be a JSON object/],
    ['encryption asked of Weave', { env: { WEAVE_PASSWORD: 'secret' } }, /^WEAVE_PASSWORD .* encryption/],
    ['static without this node', { file: { ...peers, nodeName: 'b' } }, /^nodes: .* must name this node, b/],
    [
      'two voters',
      { file: { ...peers, nodes: [...peers.nodes, { name: 'b', addresses: ['192.0.2.2'] }], voters: ['a', 'b'] } },
      /^voters: .* 1, 3, 5 or 7/,
    ],
    ['no voters', { file: { ...peers, voters: [] } }, /^voters/],
    ['a voter that is no node', { file: { ...peers, voters: ['z'] } }, /z is not among nodes/],
    ['a node twice', { file: { ...peers, nodes: [...peers.nodes, ...peers.nodes] } }, /named twice/],
    ['a node without address', { env: { WEFT_NODES: 'a' } }, /nodes \(item 0\): "a"/],
    [
      'one port for two',
      { file: { statusListen: '127.0.0.1:6782' } },
      /^statusListen: .* metricsListen has the same TCP port/,
    ],
    ['peers registry in Kubernetes', { file: { ...peers, discovery: 'kubernetes' } }, /^discovery/],
  ];
  it.each(cases)('%s', (_, given, words) => {
    expect(refusal(given)).toMatch(words);
  });

  it('names every mistake, one line each, and never repeats a secret', () => {
    const message = refusal({ env: { WEFT_VXLAN_PORT: '0', WEFT_TYPO: 'x', WEAVE_PASSWORD: 'secret' } });
    expect(message.split('\n')).toHaveLength(3);
    expect(message).not.toContain('secret');
  });
});

describe('every setting', () => {
  it.each(Object.entries(settings))('%s has a description, a group, a flag and a variable', (key, setting) => {
    expect(setting.description.length).toBeGreaterThan(20);
    expect(setting.group).not.toBe('');
    expect(flagName(key)).toMatch(/^--[a-z-]+$/);
    expect(environmentName(key)).toMatch(/^WEFT_[A-Z_]+$/);
    expect(settingsHelp()).toContain(flagName(key));
    expect(key in load({}).config).toBe(true);
    const unit = /(Ms|Bytes)$/.exec(key)?.[1];
    expect(setting.unit).toBe(unit === undefined ? undefined : unit.toLowerCase());
  });

  it('is on the page docs/settings.md (bring it up to date with vitest -u)', async () => {
    await expect(settingsMarkdown()).toMatchFileSnapshot('../../../docs/settings.md');
  });
});

describe('formats', () => {
  it('parses addresses to listen on', () => {
    expect(hostPort(':6782')).toEqual({ host: undefined, port: 6782 });
    expect(hostPort('[::1]:6785')).toEqual({ host: '::1', port: 6785 });
    expect(hostPort('127.0.0.1:0')).toBeUndefined();
    expect(hostPort('1.2.3:80')).toBeUndefined();
  });

  it('knows overlapping ranges', () => {
    expect(rangesOverlap('10.32.0.0/12', '10.43.0.0/16')).toBe(true);
    expect(rangesOverlap('10.32.0.0/12', '10.48.0.0/16')).toBe(false);
    expect(rangesOverlap('10.0.0.0/8', 'fd00::/8')).toBe(false);
  });
});
