// Collection from inside a container as the DaemonSet makes it: a root and a pid namespace of its own, of the host's mounts only /run/netns
// (HostToContainer) and the agent's directories. What is gone is taken back; a pod that lives is never, however little the agent sees of it.

import { spawn } from 'node:child_process';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { afterEach, expect, test } from 'vitest';

import { createCniHost } from '#test/support/cni-host.ts';
import type { AgentHost } from '#test/support/agent-host.ts';
import { run, TestNetns } from '#test/support/netns.ts';

/**
 * Root `$1` has the machine's files but none of its mounts, beyond `$2`, the agent's directory, and /run/netns: namespaces that are mounted
 * there later appear too. Its /proc is that of a pid namespace in which nobody else is.
 */
const container = `root=$1 own=$2; shift 2
mount --bind / "$root"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mkdir -p "$root$own" "$root/run/netns"
mount --bind "$own" "$root$own"
mount --rbind /run/netns "$root/run/netns"
exec chroot "$root" "$@"`;

let host: AgentHost;
let hostNetns: TestNetns;
const others: (() => Promise<unknown>)[] = [];

afterEach(async () => {
  for (const undo of others.splice(0).toReversed()) await undo();
  await host[Symbol.asyncDispose]();
});

async function pods(count: number): Promise<readonly TestNetns[]> {
  const made: TestNetns[] = [];
  for (let index = 0; index < count; index++) {
    const pod = await TestNetns.create('pod');
    made.push(pod);
    others.push(() => run(['sh', '-c', `ip netns delete ${pod.name} 2>/dev/null || true`]));
  }
  return made;
}

async function add(netns: string, id: string): Promise<void> {
  expect(await host.cni('ADD', { netns, env: { CNI_CONTAINERID: id } })).toMatchObject({ code: 0 });
}

test('a live pod keeps its address whatever the agent sees of its namespace; one that is gone gives it back', async () => {
  ({ host, hostNetns } = await createCniHost({ collectMs: 1000 }, false));
  const inContainer = ['unshare', '--mount', '--pid', '--fork', '--kill-child', '--propagation', 'slave'];
  const root = join(host.directory, 'root');
  await mkdir(root);
  const onHost = host.program;

  // An agent of the host, which sees everything, gives them addresses.
  await host.start();
  const [before, processes, elsewhere, plain] = (await pods(4)) as [TestNetns, TestNetns, TestNetns, TestNetns];
  await add(before.path, 'before');
  await add(plain.path, 'plain');
  const sleeper = spawn('nsenter', [`--net=${processes.path}`, '--', 'sleep', '600'], { stdio: 'ignore' });
  others.push(() => Promise.resolve(sleeper.kill('SIGKILL')));
  await expect
    .poll(() => run(['sh', '-c', `readlink /proc/${sleeper.pid}/ns/net`]), { timeout: 10_000 })
    .not.toBe(await run(['readlink', '/proc/self/ns/net']));
  await add(`/proc/${sleeper.pid}/ns/net`, 'process');
  const hidden = `/run/hidden-${elsewhere.name}`;
  await mkdir(hidden);
  await writeFile(join(hidden, 'netns'), '');
  await run(['mount', '--bind', elsewhere.path, join(hidden, 'netns')]);
  others.push(async () => {
    await run(['umount', '-l', join(hidden, 'netns')]);
    await rm(hidden, { recursive: true });
  });
  await add(join(hidden, 'netns'), 'hidden');
  expect(await host.leasedAddresses()).toBe(4);
  await host.stop();

  host.program = [...inContainer, 'sh', '-ec', container, 'sh', root, host.directory, ...onHost];
  await host.start();
  // By the root that this process has there: entering a mount namespace alone leads to the machine's root, out of a chroot.
  const mountsOf = ['nsenter', `--mount=/proc/${host.pid}/ns/mnt`, `--root=/proc/${host.pid}/root`, '--'];
  // As where propagation is missing: the path is there, and no namespace is seen on it.
  await run([...mountsOf, 'umount', join(root, plain.path)]);
  const [later, gone, goneToo] = (await pods(3)) as [TestNetns, TestNetns, TestNetns];
  for (const [name, pod] of Object.entries({ later, gone, goneToo })) await add(pod.path, name);
  expect(await host.leasedAddresses()).toBe(7);

  // One path, two namespaces: the pod's link would get into a stranger's.
  await run([...mountsOf, 'mount', '--bind', gone.path, join(root, before.path)]);
  const astray = await host.cni('ADD', { netns: before.path, env: { CNI_CONTAINERID: 'astray' } });
  expect(astray).toMatchObject({ code: 1, json: { code: 8 } });
  expect(astray.json?.['msg']).toMatch(/another network namespace than the runtime/);
  await run([...mountsOf, 'umount', join(root, before.path)]);

  // The link is the first sign of life that a look goes by: without it only the namespace is left.
  const links = await hostNetns.json<readonly { ifname: string }[]>(['ip', '-j', 'link']);
  for (const { ifname } of links) if (ifname.startsWith('weftp')) await hostNetns.exec(['ip', 'link', 'del', ifname]);
  const leased = (): Promise<number> => host.leasedAddresses();
  // Taken back at the second look in a row; a further one goes shows that the looks after it took nothing else.
  for (const [pod, left] of [
    [gone, 6],
    [goneToo, 5],
  ] as const) {
    await pod[Symbol.asyncDispose]();
    await expect.poll(leased, { timeout: 30_000, interval: 200 }).toBe(left);
  }
  expect((await host.log()).match(/taken back: .*/g)?.map((line) => /containerId=(\S+)/.exec(line)?.[1])).toEqual([
    'gone',
    'goneToo',
  ]);
}, 120_000);
