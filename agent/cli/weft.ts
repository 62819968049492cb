#!/usr/bin/env node
// The command `weft`: asks this node's agent through the status API and prints plain tables, or the same as JSON. Exit codes:
// 0 done, 1 the agent is away or refused, 2 wrong usage.

import { askStatus } from '#agent/cli/client.ts';
import { installPlugin } from '#agent/cli/install.ts';
import { ipamText, peersText, statusText } from '#agent/cli/text.ts';
import { UsageError } from '#agent/cli/usage-error.ts';
import { loadConfig } from '#agent/config.ts';
import { hostPort } from '#agent/config/formats.ts';
import { settingsHelp } from '#agent/config/help.ts';
import { hint } from '#agent/config/sources.ts';
import { toWeftError } from '#agent/errors.ts';
import { startSmall } from '#agent/memory.ts';
import type { Status } from '#agent/observe/status.ts';
import { version } from '#agent/observe/version.ts';

const usage = `Usage: weft COMMAND [OPTION …]

  weft status            this node: ready or what it waits for, addresses, findings
  weft peers             the nodes and how they are reached
  weft ipam              who holds which part of the range, which pod which address
  weft agent [SETTING …] run the agent (weft agent --help lists the settings)
  weft doctor            what is wrong on this node, with causes and next steps
  weft clean [SETTING …] take everything of Weft off this node; the agent must not run
  weft init HOST=ADDR …  keys and settings for hosts without Kubernetes (weft init --help)
  weft ipam reclaim NODE after a restore: what this node's disk knows as its own leaves the record of a node that is gone
  weft ipam reclaim      space that is in no node's record goes to this node
  weft range replace CIDR … how the default pool gets other ranges; changes nothing
  weft peers remove NODE a node without Kubernetes will not come back; its space is taken over
  weft voters            who votes, without Kubernetes; replace and restore them (weft voters --help)
  weft install [DIR]     put the CNI plugin into DIR (setting cniBinDir)
  weft version           version of this program
  weft help              this text

Options of status, peers, ipam, doctor:
  --json                 the same as JSON
  --address HOST:PORT    where the agent's status API is (default: setting statusListen)
  --before-install       doctor: look only at the host, as before there is an agent
Options of clean:
  --dry-run              say what would be removed
`;

interface Output {
  readonly out: (text: string) => void;
  readonly err: (text: string) => void;
}

const reports: Readonly<Record<string, { text: (status: Status) => string; json: (status: Status) => unknown }>> = {
  status: { text: statusText, json: (status) => status },
  peers: { text: peersText, json: ({ peers }) => peers },
  ipam: {
    text: ipamText,
    json: ({ ranges, reserved, addresses, peers, leases, leasesTotal }) => ({
      ranges,
      reserved,
      addresses,
      peers,
      leases,
      leasesTotal,
    }),
  },
};
const others = ['agent', 'doctor', 'clean', 'init', 'range', 'voters', 'install', 'version', 'help'];

/** Runs one command line (without program names); resolves to the exit code. `weft agent` resolves when the agent runs. */
export async function weft(
  argv: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  { out, err }: Output,
): Promise<number | undefined> {
  const [command = 'help', ...rest] = argv;
  try {
    if (['help', '--help', '-h'].includes(command)) out(usage);
    else if (['version', '--version'].includes(command)) out(`${version}\n`);
    else if (command === 'agent') return await runAgent(rest, env, out);
    else if (command === 'peers' && rest[0] === 'remove') out(await hostCommand('remove', rest.slice(1)));
    else if (command === 'ipam' && rest[0] === 'reclaim') out(await reclaim(rest.slice(1), env));
    else if (command === 'range') out(await range(rest, env));
    else if (command === 'init' || command === 'voters') out(await hostCommand(command, rest));
    else if (command === 'doctor') return await doctor(rest, env, out);
    else if (command === 'clean') return await clean(rest, env, out);
    else if (command === 'install') out(`${await install(rest, env)}\n`);
    else await report(command, rest, env, out);
    return 0;
  } catch (thrown) {
    if (thrown instanceof UsageError) {
      err(`weft: ${thrown.message}\n`);
      return 2;
    }
    const error = toWeftError(thrown);
    err(`weft: ${error.message.replaceAll('\n', '\nweft: ')}\n      ${error.nextStep}\n`);
    if (error.kind === 'internal' && error.cause instanceof Error) err(`${error.cause.stack ?? ''}\n`);
    return error.kind === 'invalidSetting' ? 2 : 1;
  }
}

async function report(
  command: string,
  rest: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  out: Output['out'],
): Promise<void> {
  const chosen = Object.hasOwn(reports, command) ? reports[command] : undefined;
  if (chosen === undefined) {
    const near = hint(command, [...Object.keys(reports), ...others]);
    throw new UsageError(`unknown command ${JSON.stringify(command)}${near}; weft help lists them`);
  }
  const { json, address, help } = reportOptions(rest, env);
  if (help) return out(usage);
  const target = hostPort(address);
  if (address === 'off') throw new UsageError('the status API is switched off (setting statusListen)');
  if (target === undefined) throw new UsageError(`--address must be HOST:PORT, not ${JSON.stringify(address)}`);
  const status = await askStatus(target, AbortSignal.timeout(5000));
  out(json ? `${JSON.stringify(chosen.json(status), null, 2)}\n` : chosen.text(status));
}

function reportOptions(
  rest: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
): { readonly json: boolean; readonly address: string; readonly help: boolean } {
  let address: string | undefined;
  let json = false;
  let help = false;
  for (let at = 0; at < rest.length; at++) {
    const option = rest[at] ?? '';
    if (option === '--json') json = true;
    else if (option === '--help' || option === '-h') help = true;
    else if (option === '--address') address = rest[++at] ?? '';
    else if (option.startsWith('--address=')) address = option.slice('--address='.length);
    else throw new UsageError(`unknown option ${JSON.stringify(option)}${hint(option, ['--json', '--address'])}`);
  }
  return { json, address: address ?? agentAddress(env), help };
}

/** Where the agent listens by the same file and environment that it reads; bad settings are the agent's to refuse. */
function agentAddress(env: Readonly<Record<string, string | undefined>>): string {
  try {
    return loadConfig({ argv: [], env }).config.statusListen;
  } catch {
    return '127.0.0.1:6785';
  }
}

async function runAgent(
  rest: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  out: Output['out'],
): Promise<number | undefined> {
  if (rest.includes('--help') || rest.includes('-h')) {
    out(settingsHelp());
    return 0;
  }
  startSmall();
  // Loaded only now, so that reports do not pay for the agent.
  // oxlint-disable-next-line no-restricted-imports -- `weft agent` is the door to main
  const { runAgent: start } = await import('#agent/main.ts');
  return start(rest, env);
}

/** Loaded only now, so that reports do not pay for the registry. */
async function hostCommand(command: 'init' | 'voters' | 'remove', rest: readonly string[]): Promise<string> {
  const help = rest.includes('--help') || rest.includes('-h');
  if (command === 'init') {
    const { init, initUsage } = await import('#agent/cli/init.ts');
    return help ? initUsage : init(rest, process.stdin);
  }
  if (command === 'remove') {
    const { peersRemove, peersRemoveUsage } = await import('#agent/cli/peers-remove.ts');
    return help ? peersRemoveUsage : peersRemove(rest);
  }
  const { voters, votersUsage } = await import('#agent/cli/voters.ts');
  return help ? votersUsage : voters(rest);
}

async function range(rest: readonly string[], env: Readonly<Record<string, string | undefined>>): Promise<string> {
  const { rangeReplace, rangeReplaceUsage } = await import('#agent/cli/range-replace.ts');
  if (rest.includes('--help') || rest.includes('-h')) return rangeReplaceUsage;
  if (rest[0] !== 'replace') throw new UsageError(rangeReplaceUsage.trimEnd());
  return await rangeReplace(rest.slice(1), env);
}

async function reclaim(rest: readonly string[], env: Readonly<Record<string, string | undefined>>): Promise<string> {
  const { ipamReclaim, ipamReclaimUsage } = await import('#agent/cli/ipam-reclaim.ts');
  return rest.includes('--help') || rest.includes('-h') ? ipamReclaimUsage : await ipamReclaim(rest, env);
}

/** Exit code 1 where there is a finding of severity error. */
async function doctor(
  rest: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  out: Output['out'],
): Promise<number> {
  const hostOnly = rest.includes('--before-install');
  const { json, address, help } = reportOptions(
    rest.filter((option) => option !== '--before-install'),
    env,
  );
  if (help) {
    out(usage);
    return 0;
  }
  const { doctorText, examineHost } = await import('#agent/cli/doctor.ts');
  const target = hostPort(address);
  const asked = hostOnly || target === undefined ? undefined : askStatus(target, AbortSignal.timeout(15_000), true);
  const away =
    asked === undefined ? '' : await asked.then(() => '').catch((error: unknown) => toWeftError(error).message);
  const findings =
    asked === undefined || away !== ''
      ? await examineHost(loadConfig({ argv: [], env }).config)
      : (await asked).findings;
  const heading = away === '' ? '' : `${away}; only the host is looked at\n`;
  out(json ? `${JSON.stringify(findings, null, 2)}\n` : heading + doctorText(findings));
  return findings.some(({ severity }) => severity === 'error') ? 1 : 0;
}

/** Exit code 1 where something could not be removed. */
async function clean(
  rest: readonly string[],
  env: Readonly<Record<string, string | undefined>>,
  out: Output['out'],
): Promise<number> {
  const dryRun = rest.includes('--dry-run');
  const { config } = loadConfig({ argv: rest.filter((option) => option !== '--dry-run'), env });
  const { clean: cleanNode } = await import('#agent/cli/clean.ts');
  const lines = await cleanNode(config, dryRun);
  const heading = dryRun ? 'would be removed:' : lines.length === 0 ? 'nothing of Weft is here' : 'removed:';
  out(`${[heading, ...lines.map((line) => `  ${line}`)].join('\n')}\n`);
  return lines.some((line) => line.startsWith('not removed')) ? 1 : 0;
}

async function install(rest: readonly string[], env: Readonly<Record<string, string | undefined>>): Promise<string> {
  const [directory, extra] = rest;
  if (extra !== undefined || directory?.startsWith('-') === true) throw new UsageError('usage: weft install [DIR]');
  const { WEFT_SHIM: shim, ...settings } = env;
  return installPlugin(directory ?? loadConfig({ argv: [], env: settings }).config.cniBinDir, shim);
}

if (import.meta.main) {
  const code = await weft(process.argv.slice(2), process.env, {
    out: (text) => process.stdout.write(text),
    err: (text) => process.stderr.write(text),
  });
  if (code !== undefined) process.exitCode = code;
}
