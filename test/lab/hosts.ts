// Hosts out of namespaces, and the switch between them:
//
//   weft-lab-host1 (eth0 192.168.50.1) ──┐
//   weft-lab-host2 (eth0 192.168.50.2) ──┼── br0 in weft-lab-switch (192.168.50.254, the hosts' default route)
//   weft-lab-host3 (eth0 192.168.50.3) ──┘
//
// Each host has its own network, mount and host-name namespace. On the machine's files lie a memory file system and overlays in
// it, so that the host's /etc/weft, /etc/cni/net.d, /opt/cni/bin, /var/lib/weft and /run/weft are its own and empty, everything
// runs with its default paths, and nothing is written to the machine.

import type { ChildProcess } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Runner } from '#test/lab/run.ts';
import { labDirectory } from '#test/lab/state.ts';

export interface Host {
  readonly name: string;
  readonly netns: string;
  readonly address: string;
  /** The host's first process: holds the namespaces, forwards the Unix socket to the status API. */
  readonly init: ChildProcess;
  /** The host's view of the file system, seen from the machine. */
  readonly root: string;
  readonly statusSocket: string;
}

export const switchNetns = 'weft-lab-switch';

/** On a host, without the leading slash. */
export const conflistPath = 'etc/cni/net.d/05-weft.conflist';

export const hostName = (index: number): string => `host${index}`;
export const hostNetns = (index: number): string => `weft-lab-${hostName(index)}`;
export const hostAddress = (index: number): string => `192.168.50.${index}`;

/** Makes all namespaces of the lab, by name; the names are in the state already. */
export async function makeNetns(runner: Runner, names: readonly string[], signal: AbortSignal): Promise<void> {
  const stdin = names.map((name) => `netns add ${name}\n`).join('');
  await runner.output(['ip', '-batch', '-'], { signal, stdin });
}

/** Wires `count` hosts to the switch. */
export async function wireHosts(runner: Runner, count: number, signal: AbortSignal): Promise<void> {
  const indexes = Array.from({ length: count }, (_, at) => at + 1);
  const ports = indexes.flatMap((index) => [
    `link add port${index} type veth peer name eth0 netns ${hostNetns(index)}`,
    `link set port${index} master br0 up`,
  ]);
  const bridge = [
    'link set lo up',
    'link add br0 type bridge',
    'address add 192.168.50.254/24 dev br0',
    'link set br0 up',
  ];
  await ipIn(runner, switchNetns, [...bridge, ...ports], signal);
  await Promise.all(
    indexes.map((index) =>
      ipIn(
        runner,
        hostNetns(index),
        [
          'link set lo up',
          `address add ${hostAddress(index)}/24 dev eth0`,
          'link set eth0 up',
          'route add default via 192.168.50.254',
        ],
        signal,
      ),
    ),
  );
}

async function ipIn(runner: Runner, netns: string, lines: readonly string[], signal: AbortSignal): Promise<void> {
  await runner.output(['ip', '-netns', netns, '-batch', '-'], { signal, stdin: `${lines.join('\n')}\n` });
}

// $1 name, $2 folder of the lab, then the program. Folders are made in the overlays' upper layer before they are mounted on: a
// folder of the machine that somebody removes would take a mount on it along. /run is not an overlay because it has mounts
// inside; the namespaces' names and the lab's own folder are handed through. Reverse-path filtering is strict, as on Debian.
const initScript = `
set -e
name=$1; lab=$2; shift 2
own=$lab/$name
mkdir "$own"
mount -t tmpfs -o mode=0755,size=512m weft-lab "$own"
for top in etc opt var/lib; do
  mkdir -p "$own/$top/upper" "$own/$top/work"
done
mkdir -p "$own/etc/upper/weft" "$own/etc/upper/cni/net.d" "$own/opt/upper/cni/bin" "$own/var/lib/upper/weft"
for top in etc opt var/lib; do
  mkdir -p "/$top"
  mount -t overlay -o "lowerdir=/$top,upperdir=$own/$top/upper,workdir=$own/$top/work" weft-lab "/$top"
done
for folder in /etc/weft /etc/cni/net.d /opt/cni/bin /var/lib/weft; do
  mount -t tmpfs -o mode=0755,size=256m weft-lab "$folder"
done
mkdir -p "$own/root/run/weft" "$own/root/run/netns" "$own/root$lab"
mount --rbind /run/netns "$own/root/run/netns"
mount --bind "$lab" "$own/root$lab"
mount --rbind "$own/root/run" /run
mount -t sysfs sysfs /sys 2>/dev/null || true
echo 1 > /proc/sys/net/ipv4/conf/all/rp_filter
hostname "$name"
exec "$@"
`;

/** Starts the host's first process and waits until its own folders are there. */
export async function startHost(runner: Runner, index: number, signal: AbortSignal): Promise<Host> {
  const name = hostName(index);
  const netns = hostNetns(index);
  const statusSocket = join(labDirectory, `${name}.sock`);
  const program = fileURLToPath(new URL('host-init.ts', import.meta.url));
  const init = runner.start(
    [
      'nsenter',
      `--net=/run/netns/${netns}`,
      'unshare',
      '--mount',
      '--uts',
      '--propagation=slave',
      'sh',
      '-c',
      initScript,
      'sh',
      name,
      labDirectory,
      process.execPath,
      program,
      statusSocket,
    ],
    ['ignore', 'pipe', 'pipe'],
  );
  await firstLine(init, `host ${name}`, signal);
  const address = hostAddress(index);
  return { name, netns, address, init, root: `/proc/${init.pid}/root`, statusSocket };
}

/** Resolves when the process has written its first line; fails with its standard error when it ends before. */
export async function firstLine(child: ChildProcess, what: string, signal: AbortSignal): Promise<string> {
  let stderr = '';
  child.stderr?.setEncoding('utf8').on('data', (chunk: string) => (stderr += chunk));
  return new Promise((resolve, reject) => {
    let line = '';
    signal.addEventListener('abort', () => reject(new Error('aborted')), { once: true });
    child.on('error', reject);
    child.on('close', (code) => reject(new Error(`${what} did not start (exit ${code}): ${stderr.trim()}`)));
    child.stdout?.setEncoding('utf8').on('data', (chunk: string) => {
      line += chunk;
      if (line.includes('\n')) resolve(line.slice(0, line.indexOf('\n')));
    });
  });
}

/**
 * Command line for running something on the host, with the host's files, network and name. `--root`: entering a mount namespace alone
 * leaves for that namespace's own root, which is another one where the lab runs in a chroot.
 */
export function onHost(host: Host, command: readonly string[]): readonly string[] {
  return ['nsenter', `--target=${host.init.pid}`, '--mount', '--net', '--uts', '--root', '--wd', '--', ...command];
}
