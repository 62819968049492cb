// What the agent watches beside its own work: the ways to the peers (probes).

import type { Config } from '#agent/config.ts';
import type { KernelDatapath } from '#agent/datapath/kernel-datapath.ts';
import type { Condition } from '#agent/findings.ts';
import type { Logger } from '#agent/observe/log.ts';
import { startProber } from '#agent/probe/prober.ts';
import type { PeerPath } from '#agent/probe/scene.ts';

export interface Health {
  /** By record name. */
  paths(): ReadonlyMap<string, PeerPath>;
  conditions(): readonly Condition[];
  stop(): void;
}

export interface HealthOptions {
  readonly config: Config;
  readonly datapath: Pick<KernelDatapath, 'scene' | 'setDirect'>;
  readonly log: Logger;
}

/** Starts when the datapath has had its first round. */
export function startHealth({ config, datapath, log }: HealthOptions): Health {
  const prober = startProber({
    scene: () => datapath.scene(),
    setDirect: (peers) => datapath.setDirect(peers),
    intervalMs: config.probeIntervalMs,
    log,
  });
  return {
    paths: () => prober.paths(),
    conditions: () => prober.findings(),
    stop: () => prober.stop(),
  };
}
