// Pods are routed, so the node must forward: the sysctls that are not of a link of ours. Switching IPv6's on makes the kernel
// drop what router advertisements taught it, unless the link is told to go on listening: that is done first, for the links
// that have such routes, or the node would lose its way out.
import { addressFamily } from '#agent/netlink/ip-text.ts';
import { dumpLinks } from '#agent/netlink/link.ts';
import { dumpRoutes } from '#agent/netlink/route.ts';
import { toWeftError } from '#agent/errors.ts';

import type { Family } from './cidr.ts';
import type { KernelIo } from './kernel-io.ts';
import type { Finding } from './objects.ts';

export const forwardingSwitches = { 4: 'net/ipv4/ip_forward', 6: 'net/ipv6/conf/all/forwarding' } as const;

/** RTPROT_RA: routes of router advertisements (linux/rtnetlink.h). */
const advertised = 9;

interface Log {
  info(fields: object, message: string): void;
}

/** Switches forwarding on where it is off; what cannot be written is a finding. */
export function ensureForwarding(io: KernelIo, log: Log, families: readonly Family[]): readonly Finding[] {
  return families.flatMap((family) => {
    const file = forwardingSwitches[family];
    const name = file.replaceAll('/', '.');
    if (io.readSysctl(file) === '1') return [];
    try {
      if (family === 6) keepListening(io, log);
      io.writeSysctl(file, '1');
      log.info({}, `${name} switched on`);
      return [];
    } catch (error) {
      const { message } = toWeftError(error);
      const told = `pods need ${name} = 1 and it cannot be written (${message}): sysctl -w ${name}=1`;
      return [{ name: 'forwardingOff', subject: name, message: told }];
    }
  });
}

/** accept_ra 2: also while forwarding (Documentation/networking/ip-sysctl.rst). */
function keepListening(io: KernelIo, log: Log): void {
  const routes = io.route.dump(dumpRoutes({ rtmFamily: addressFamily.inet6, rtmProtocol: advertised }));
  const learning = new Set(routes.map(({ oif }) => oif));
  if (learning.size === 0) return;
  for (const { ifiIndex, ifname = '' } of io.route.dump(dumpLinks())) {
    const file = `net/ipv6/conf/${ifname}/accept_ra`;
    if (!learning.has(ifiIndex) || io.readSysctl(file) !== '1') continue;
    io.writeSysctl(file, '2');
    log.info({ link: ifname }, 'the link goes on taking routes from router advertisements while the node forwards');
  }
}

/** As `hasIpv6` of the first device, the overlay's. Where the node has IPv6, devices of ours that somebody took it from get it back. */
export function ensureIpv6(
  io: Pick<KernelIo, 'readSysctl' | 'writeSysctl'>,
  devices: readonly [overlay: string, ...more: string[]],
): boolean {
  const lacking = io.readSysctl(ipv6Switch('default')) === '0' ? devices.map(ipv6Switch) : [];
  try {
    for (const file of lacking) if (io.readSysctl(file) === '1') io.writeSysctl(file, '0');
  } catch {
    // Where it cannot be written the overlay goes without, which is a finding (ipv6Off).
  }
  return hasIpv6(io, devices[0]);
}

/** Whether the overlay device has IPv6, or would have it. */
export function hasIpv6(io: Pick<KernelIo, 'readSysctl'>, overlayDevice: string): boolean {
  return (io.readSysctl(ipv6Switch(overlayDevice)) ?? io.readSysctl(ipv6Switch('default'))) === '0';
}

function ipv6Switch(link: string): string {
  return `net/ipv6/conf/${link}/disable_ipv6`;
}
