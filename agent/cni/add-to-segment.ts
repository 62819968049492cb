// ADD where a DHCP server gives the address (`ipam.type: dhcp`): its plugin's daemon asks through the pod's link. So the order is another:
// lease without addresses (durable, pending), link, plugin, addresses, activate (durable), answer. A lease that a crash leaves pending
// is undone at the start like any other, through its link, which gives the address back.

import { WeftError } from '#agent/errors.ts';
import { segmentMac } from '#agent/datapath/segment-plan.ts';
import type { Delegate, Lease } from '#agent/runtime/ipam.ts';
import { requireForeign } from '#agent/runtime/foreign-address.ts';
import { type Delegated, delegateAdd } from './delegate.ts';
import { undo } from './del.ts';
import { invalid, unsupported } from './json.ts';
import type { AddParts } from './parts.ts';
import type { AddCall } from './request.ts';
import type { AddResult } from './result.ts';

/** Throws WeftError: `invalidConfig` where the node has no uplink, `notReady`, `delegateFailed`, those of Ipam.lease. */
export async function addToSegment(
  call: AddCall,
  owner: Lease['owner'],
  delegate: Delegate,
  parts: AddParts,
  signal: AbortSignal,
): Promise<AddResult> {
  const { ipam, segment } = parts;
  if (segment === undefined || !segment.isConfigured) {
    throw invalid(
      'ipam.type',
      'ipam.type "dhcp" needs a link in the Ethernet segment of the DHCP server, and a routed pod link is in none: name ' +
        'the uplink of such pods in the setting dhcpUplink, or use host-local, static, or the reference plugin macvlan with dhcp',
    );
  }
  const { link: wanted } = call.netConf.wish;
  for (const key of ['portMappings', 'bandwidth'] as const) {
    if (wanted[key] !== undefined)
      throw unsupported(`runtimeConfig.${key} with ipam.type "dhcp"`, `runtimeConfig.${key}`);
  }
  const link = { ...wanted, mac: wanted.mac ?? segmentMac(call.key) };
  const lease = await ipam.lease({ ...call.key, owner, addresses: [], link, delegate }, signal);
  try {
    const made = await segment.attach(lease, call.netnsPath, signal);
    const given = await delegateAdd(delegate, signal);
    const { addresses, cidrs, gateway } = given;
    requireForeign({ addresses, delegate }, ipam.view().ranges);
    requireIpv4(given, delegate);
    parts.log.info({ ...call.key, addresses, ipam: delegate.type }, 'addresses of the segment outside');
    signal.throwIfAborted();
    const whole = { ...lease, addresses };
    const routes = segment.give(whole, call.netnsPath, given);
    ipam.activate(whole);
    return {
      interfaces: [
        { name: made.hostIfname, mac: made.hostMac, mtu: made.mtuBytes },
        { name: lease.ifname, mac: made.podMac, mtu: made.mtuBytes, sandbox: call.netnsPath },
      ],
      ips: cidrs.map((address) => ({ address, ...(gateway === undefined ? {} : { gateway }), interface: 1 })),
      routes: routes.map(({ dst, gateway: gw, table }) => ({ dst, gw, ...(table === undefined ? {} : { table }) })),
      dns: call.netConf.dns ?? given.dns,
    };
  } catch (error) {
    await undo(lease, parts);
    throw error;
  }
}

/** What the segment's table lets a pod send. */
function requireIpv4({ addresses }: Delegated, { type }: Delegate): void {
  if (addresses.length === 1 && addresses[0]?.includes('.')) return;
  throw new WeftError('invalidConfig', `${type} gave ${addresses.join(' and ')}, where one IPv4 address was expected`, {
    details: 'ipam',
  });
}
