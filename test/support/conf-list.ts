// Executes a network configuration list through the plugins' real binaries, as libcni does: ADD in order with the previous result, CHECK
// in order, DEL backwards with the cached result, STATUS and GC to each; runtimeConfig by declared capability.

import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';

import { shimPath } from '../../cni-shim/build.ts';

/** Where Debian's containernetworking-plugins puts the reference plugins. */
export const referencePlugins = '/usr/lib/cni';

type JsonObject = Readonly<Record<string, unknown>>;

export interface Plugin extends JsonObject {
  readonly type: string;
  readonly capabilities?: Readonly<Record<string, boolean>>;
}

export interface ListOptions {
  readonly name: string;
  readonly cniVersion: string;
  readonly plugins: readonly Plugin[];
  /** Namespace that the plugins run in. */
  readonly hostNetns: string;
  /** WEFT_SOCKET and the like. */
  readonly env: Readonly<Record<string, string>>;
  /** Holds the shim as `weft`. */
  readonly binDir: string;
  /** What the runtime offers to plugins that declare the capability. */
  readonly runtimeConfig?: JsonObject;
}

export interface Attachment {
  readonly containerId: string;
  /** Empty: gone. */
  readonly netns: string;
  readonly ifname: string;
}

/** A plugin ended with an error; `json` is what it said on stdout. */
export class PluginError extends Error {
  readonly json: JsonObject;

  constructor(plugin: string, verb: string, stdout: string, stderr: string) {
    super(`${plugin} ${verb} failed: ${stdout.trim()} ${stderr.trim()}`);
    this.json = stdout.trim().startsWith('{') ? (JSON.parse(stdout) as JsonObject) : {};
  }
}

export class ConfList {
  readonly #options: ListOptions;
  readonly #results = new Map<string, JsonObject>();

  constructor(options: ListOptions) {
    this.#options = options;
  }

  /** The last plugin's result, which is kept for CHECK and DEL. */
  async add(attachment: Attachment): Promise<JsonObject> {
    let prevResult: JsonObject | undefined;
    for (const plugin of this.#options.plugins)
      prevResult = await this.#run('ADD', plugin, attachment, prevResult === undefined ? {} : { prevResult });
    if (prevResult === undefined) throw new Error('a list has plugins');
    this.#results.set(keyOf(attachment), prevResult);
    return prevResult;
  }

  /** Of all plugins, or of those of the types given. */
  async check(attachment: Attachment, types?: readonly string[]): Promise<void> {
    const prevResult = this.#results.get(keyOf(attachment));
    const plugins = this.#options.plugins.filter(({ type }) => types?.includes(type) ?? true);
    for (const plugin of plugins) await this.#run('CHECK', plugin, attachment, { prevResult });
  }

  async del(attachment: Attachment): Promise<void> {
    const prevResult = this.#results.get(keyOf(attachment));
    const conf = prevResult === undefined ? {} : { prevResult };
    for (const plugin of this.#options.plugins.toReversed()) await this.#run('DEL', plugin, attachment, conf);
    this.#results.delete(keyOf(attachment));
  }

  async status(): Promise<void> {
    for (const plugin of this.#options.plugins) await this.#run('STATUS', plugin, nobody, {});
  }

  async gc(valid: readonly Attachment[]): Promise<void> {
    const list = valid.map(({ containerId, ifname }) => ({ containerID: containerId, ifname }));
    const keys = { 'cni.dev/valid-attachments': list, 'cni.dev/attachments': list };
    for (const plugin of this.#options.plugins) await this.#run('GC', plugin, nobody, keys);
  }

  async #run(verb: string, plugin: Plugin, attachment: Attachment, more: JsonObject): Promise<JsonObject> {
    const { name, cniVersion, binDir, env, hostNetns, runtimeConfig = {} } = this.#options;
    const declared = Object.entries(runtimeConfig).filter(([key]) => plugin.capabilities?.[key] === true);
    const given = declared.length === 0 ? {} : { runtimeConfig: Object.fromEntries(declared) };
    const container = {
      CNI_CONTAINERID: attachment.containerId,
      CNI_NETNS: attachment.netns,
      CNI_IFNAME: attachment.ifname,
    };
    const path = plugin.type === 'weft' ? shimPath : join(referencePlugins, plugin.type);
    if (!existsSync(path)) throw new Error(`${path} is not there; apt-get install containernetworking-plugins`);
    const variables = { CNI_COMMAND: verb, CNI_PATH: `${binDir}:${referencePlugins}`, ...env };
    const child = spawn('nsenter', [`--net=${hostNetns}`, '--', path], {
      env: { PATH: process.env['PATH'], ...variables, ...(attachment === nobody ? {} : container) },
    });
    const output = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output.stdout += chunk));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => (output.stderr += chunk));
    child.stdin.on('error', () => undefined).end(JSON.stringify({ ...plugin, name, cniVersion, ...given, ...more }));
    const code = await new Promise<number | null>((resolve, reject) => {
      child.on('error', reject);
      child.on('close', resolve);
    });
    if (code !== 0) throw new PluginError(plugin.type, verb, output.stdout, output.stderr);
    return output.stdout.trim() === '' ? {} : (JSON.parse(output.stdout) as JsonObject);
  }
}

const nobody: Attachment = { containerId: '', netns: '', ifname: '' };

function keyOf({ containerId, ifname }: Attachment): string {
  return `${containerId}/${ifname}`;
}
