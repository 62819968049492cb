// The datapath's settings out of the agent's.
import { existsSync } from 'node:fs';

import type { Config } from '#agent/config.ts';

import { defaultDatapathSettings } from './settings.ts';
import type { DatapathSettings } from './settings.ts';

/** A container's own /proc/sys is read-only; the DaemonSet mounts the part that the datapath writes beside it. */
const hostSysctlRoot = '/host/proc/sys';

/** `underlay`: the address that the settings name; ''. */
export function datapathSettings(config: Config, underlay: string): DatapathSettings {
  return {
    ...defaultDatapathSettings,
    podLink: config.podLink,
    dhcpUplink: config.dhcpUplink,
    overlayMode: config.overlayMode,
    vxlanPort: config.vxlanPort,
    vni: config.vxlanVni,
    mtuBytes: config.mtuBytes,
    nonMasqueradeCidrs: config.nonMasqueradeRanges,
    underlayAddress: underlay || undefined,
    comparePeriodMs: config.resyncMs,
    ...(existsSync(`${hostSysctlRoot}/net`) && { sysctlRoot: hostSysctlRoot }),
  };
}
