// How container runtimes call plugins, for one table of tests: libcni itself, by a client that runs one operation, and cnitool.

import { spawn } from 'node:child_process';
import { createHash } from 'node:crypto';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';

type JsonObject = Readonly<Record<string, unknown>>;

export type Operation = 'add' | 'del' | 'check' | 'gc' | 'status' | 'version' | 'validate';

export interface Request {
  /** Path of the pod's namespace; '': none. */
  readonly netns: string;
  /** Absent: follows from the path, as cnitool has it. */
  readonly containerId?: string;
  readonly ifname?: string;
  /** The network configuration list. */
  readonly conf?: JsonObject;
  readonly args?: Readonly<Record<string, string>>;
  readonly capabilities?: JsonObject;
  /** Attachments that GC leaves. */
  readonly valid?: readonly { readonly containerID: string; readonly ifname: string }[];
  /** Over the caller's own variables. */
  readonly env?: Readonly<Record<string, string>>;
  /** Namespace of the caller; absent: the host's. */
  readonly from?: string;
}

export interface Answer {
  readonly ok: boolean;
  readonly result: unknown;
  /** The plugin's CNI error code where the caller hands it on: libcni does, cnitool prints the words alone. */
  readonly code?: number;
  readonly said: string;
  readonly durationMs: number;
}

export interface Place {
  readonly binDir: string;
  /** For configurations and cached results. */
  readonly directory: string;
  readonly hostNetns: string;
  readonly env: Readonly<Record<string, string>>;
}

export interface Caller {
  readonly name: string;
  call(operation: Operation, request: Request): Promise<Answer>;
}

/** The list as the agent writes it, in a version of its own. */
export function listOf(plugin: JsonObject, cniVersion = '1.1.0'): JsonObject {
  return { cniVersion, name: 'weft', plugins: [{ type: 'weft', ...plugin }] };
}

/** cnitool's id of a namespace. */
export function containerIdOf(netns: string): string {
  return `cnitool-${createHash('sha512').update(netns).digest('hex').slice(0, 20)}`;
}

export function libcniCaller(program: string, place: Place): Caller {
  return {
    name: 'libcni',
    call: async (operation, request) => {
      const { netns, containerId = containerIdOf(netns), ifname = 'eth0' } = request;
      const stdin = JSON.stringify({
        Verb: operation,
        Conf: request.conf ?? listOf({}),
        Path: [place.binDir],
        Cache: join(place.directory, 'cache'),
        ContainerID: containerId,
        Netns: netns,
        IfName: ifname,
        Args: request.args ?? {},
        Capabilities: request.capabilities ?? {},
        Valid: request.valid ?? [],
      });
      const { code, stdout, stderr, durationMs } = await execute([program], request, place, {}, stdin);
      if (code !== 0) throw new Error(`the client of libcni ended with ${code}: ${stderr}`);
      const answer = JSON.parse(stdout) as { result?: unknown; error?: { code: number }; said?: string };
      const { error, said = '', result } = answer;
      return { ok: error === undefined, result, ...(error && { code: error.code }), said, durationMs };
    },
  };
}

/** GC and VERSION with arguments are not its own: it calls no attachment valid. */
export function cnitoolCaller(program: string, place: Place): Caller {
  let serial = 0;
  return {
    name: 'cnitool',
    call: async (operation, request) => {
      const netD = join(place.directory, `net.d-${++serial}`);
      await mkdir(netD);
      await writeFile(join(netD, '05-weft.conflist'), JSON.stringify(request.conf ?? listOf({})));
      const { args = {}, capabilities } = request;
      const pairs = Object.entries(args).map(([key, value]) => `${key}=${value}`);
      const env = {
        CNI_PATH: place.binDir,
        NETCONFPATH: netD,
        CNI_IFNAME: request.ifname ?? 'eth0',
        ...(pairs.length > 0 && { CNI_ARGS: pairs.join(';') }),
        ...(capabilities && { CAP_ARGS: JSON.stringify(capabilities) }),
      };
      const words = [program, operation, 'weft', request.netns];
      const { code, stdout, stderr, durationMs } = await execute(words, request, place, env, '');
      const result: unknown = code === 0 && stdout.trim() !== '' ? JSON.parse(stdout) : undefined;
      return { ok: code === 0, result, said: `${stderr}${code === 0 ? '' : stdout}`, durationMs };
    },
  };
}

interface Run {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  readonly durationMs: number;
}

async function execute(
  command: readonly string[],
  { env, from }: Request,
  place: Place,
  more: Readonly<Record<string, string>>,
  stdin: string,
): Promise<Run> {
  const startedMs = performance.now();
  const child = spawn('nsenter', [`--net=${from ?? place.hostNetns}`, '--', ...command], {
    env: { PATH: process.env['PATH'], ...place.env, ...more, ...env },
  });
  const output = { stdout: '', stderr: '' };
  child.stdout.setEncoding('utf8').on('data', (chunk: string) => (output.stdout += chunk));
  child.stderr.setEncoding('utf8').on('data', (chunk: string) => (output.stderr += chunk));
  child.stdin.on('error', () => undefined).end(stdin);
  const code = await new Promise<number | null>((resolve, reject) => {
    child.on('error', reject);
    child.on('close', resolve);
  });
  return { code, ...output, durationMs: performance.now() - startedMs };
}
