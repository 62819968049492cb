// A host with one real agent: `weft agent` as a process with the `peers` registry, itself the only voter, files in a directory of
// their own. In a network namespace of its own, or in the caller's.

import { type ChildProcess, spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, mkdtemp, open, readFile, rm, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { createKeys } from '#agent/registry/peers/keys.ts';
import type { Status } from '#agent/observe/status.ts';
import { createVoterDisk } from '#agent/registry/peers/store.ts';
import { run, TestNetns } from '#test/support/netns.ts';
import { programPath } from '#test/support/programs.ts';
import { runShim, type ShimOptions, type ShimRun } from '#test/support/shim.ts';

const compileCache = fileURLToPath(new URL('../../.cache/compile', import.meta.url));
const underlay = '192.168.50.1';

/** Links and addresses of a host: an underlay that leads nowhere. */
const wiring: readonly (readonly string[])[] = [
  ['ip', 'link', 'set', 'lo', 'up'],
  ['ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'switch0'],
  ['ip', 'link', 'set', 'switch0', 'up'],
  ['ip', 'address', 'add', `${underlay}/24`, 'dev', 'eth0'],
  ['ip', 'link', 'set', 'eth0', 'up'],
];

/** Bash connects by itself; the namespace's own 127.0.0.1 is not to be reached from here. */
const askStatus =
  "exec 3<>/dev/tcp/127.0.0.1/6785; printf 'GET /api/status HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n' >&3; cat <&3";

export interface CniCallOptions {
  readonly netns: string;
  readonly ifname?: string;
  readonly env?: Readonly<Record<string, string>>;
  /** Keys over the usual configuration, or stdin as it is. */
  readonly conf?: Readonly<Record<string, unknown>> | string;
}

export class AgentHost implements AsyncDisposable {
  readonly directory: string;
  readonly netns: TestNetns | undefined;
  readonly settings: Readonly<Record<string, unknown>>;
  #child: ChildProcess | undefined;
  #ended: string = 'it was not started';
  /** What is started, with `--config FILE` behind it, and more of its environment: a bundle, say, in place of the sources. */
  program: readonly string[] = [process.execPath, programPath('weft'), 'agent'];
  env: Readonly<Record<string, string>> = {};

  private constructor(directory: string, netns: TestNetns | undefined, settings: Readonly<Record<string, unknown>>) {
    this.directory = directory;
    this.netns = netns;
    this.settings = settings;
  }

  /** Wires the host and writes its settings; `settings` go over the usual ones. The agent is not started. */
  static async create(
    where: 'own netns' | 'here',
    settings: Readonly<Record<string, unknown>> = {},
  ): Promise<AgentHost> {
    const directory = await mkdtemp(join(tmpdir(), 'weft-host-'));
    const netns = where === 'here' ? undefined : await TestNetns.create('host');
    const enter = netns === undefined ? [] : ['nsenter', `--net=${netns.path}`, '--'];
    for (const command of wiring) await run([...enter, ...command]);
    const node = { name: 'host1', addresses: [underlay] };
    const [keys] = await createKeys(join(directory, 'keys'), [node]);
    if (keys === undefined) throw new Error('no keys were made');
    const usual = {
      nodeName: node.name,
      registry: 'peers',
      nodes: [node],
      voters: [node.name],
      tlsCa: keys.ca,
      tlsCert: keys.cert,
      tlsKey: keys.key,
      stateDir: join(directory, 'state'),
      runDir: join(directory, 'run'),
      conflistPath: join(directory, 'net.d/05-weft.conflist'),
      cniBinDir: join(directory, 'bin'),
      logFormat: 'text',
    };
    const host = new AgentHost(directory, netns, { ...usual, ...settings });
    await mkdir(join(directory, 'state'), { recursive: true });
    createVoterDisk(join(directory, 'state/voter.db'));
    await writeFile(join(directory, 'config.json'), JSON.stringify(host.settings));
    return host;
  }

  get socketPath(): string {
    return join(this.directory, 'run/cni.sock');
  }

  get spoolDir(): string {
    return join(this.directory, 'state/spool');
  }

  get pid(): number | undefined {
    return this.#child?.pid;
  }

  /** How the agent ended; '' while it runs. */
  get ended(): string {
    return this.#ended;
  }

  /** Starts the agent and waits until pods can start. */
  async start(): Promise<void> {
    const log = await open(join(this.directory, 'agent.log'), 'a');
    const enter = this.netns === undefined ? [] : ['nsenter', `--net=${this.netns.path}`, '--'];
    const command = [...enter, ...this.program, '--config', join(this.directory, 'config.json')];
    const [program = '', ...args] = command;
    // Half of a start is compiling: the second agent of a run need not.
    const env = { PATH: process.env['PATH'], NODE_COMPILE_CACHE: compileCache, ...this.env };
    const child = spawn(program, args, { stdio: ['ignore', log.fd, log.fd], env });
    this.#child = child;
    this.#ended = '';
    child.on('error', (error) => (this.#ended = error.message));
    child.on('exit', (code, signal) => (this.#ended = `exit ${code ?? signal}`));
    await log.close();
    await this.#until('serves', async () => {
      if (!existsSync(String(this.settings['conflistPath'])) || !(await this.#isListening())) return false;
      return (await this.cni('STATUS', { netns: '' })).code === 0;
    });
  }

  /** A killed agent leaves its socket, and its mark makes STATUS succeed. */
  async #isListening(): Promise<boolean> {
    return await new Promise((resolve) => {
      const socket = connect(this.socketPath);
      const answer = (listens: boolean): void => {
        socket.destroy();
        resolve(listens);
      };
      socket.once('connect', () => answer(true)).once('error', () => answer(false));
    });
  }

  /** Ends the agent by a signal and waits until it is gone. */
  async stop(signal: 'SIGTERM' | 'SIGKILL' = 'SIGTERM'): Promise<void> {
    if (this.#child === undefined || this.#ended !== '') return;
    const gone = new Promise((resolve) => this.#child?.once('exit', resolve));
    this.#child.kill(signal);
    await gone;
  }

  /** One execution of the real shim, as a runtime makes it. */
  async cni(verb: string, options: CniCallOptions & Partial<Pick<ShimOptions, 'prefix'>>): Promise<ShimRun> {
    const id = options.netns === '' ? 'none' : (options.netns.split('/').at(-1) ?? '');
    const container = { CNI_CONTAINERID: id, CNI_NETNS: options.netns, CNI_IFNAME: options.ifname ?? 'eth0' };
    const paths = { CNI_PATH: '/opt/cni/bin', WEFT_SOCKET: this.socketPath, WEFT_SPOOL_DIR: this.spoolDir };
    const conf = options.conf ?? {};
    const usual = { cniVersion: '1.1.0', name: 'weft', type: 'weft' };
    return await runShim({
      env: { CNI_COMMAND: verb, ...container, ...paths, ...options.env },
      stdin: typeof conf === 'string' ? conf : JSON.stringify({ ...usual, ...conf }),
      ...(options.prefix === undefined ? {} : { prefix: options.prefix }),
    });
  }

  /** What the agent says of itself, as `weft status --json` prints it, for a hundredth of the processor time. */
  async status(): Promise<Status> {
    const options = { signal: AbortSignal.timeout(20_000) };
    const command = ['bash', '-c', askStatus];
    const answer = await (this.netns === undefined ? run(command, options) : this.netns.exec(command, options));
    const [head = '', body = ''] = answer.split('\r\n\r\n');
    if (!head.startsWith('HTTP/1.1 200 ')) throw new Error(`the status API answers ${head}`);
    return JSON.parse(body) as Status;
  }

  /** How many addresses the agent says are leased to pods. */
  async leasedAddresses(): Promise<number> {
    return (await this.status()).leasesTotal;
  }

  async log(): Promise<string> {
    return await readFile(join(this.directory, 'agent.log'), 'utf8').catch(() => '(no log)');
  }

  async #until(what: string, holds: () => Promise<boolean>): Promise<void> {
    // An agent that cannot start ends; this is for one that hangs. An emulated processor takes a minute for it.
    const deadlineMs = performance.now() + 600_000;
    while (!(await holds())) {
      if (this.#ended !== '' || performance.now() > deadlineMs) {
        throw new Error(`no agent that ${what} (${this.#ended || 'it runs'}):\n${await this.log()}`);
      }
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop('SIGKILL');
    await this.netns?.[Symbol.asyncDispose]();
    await rm(this.directory, { recursive: true, force: true });
  }
}
