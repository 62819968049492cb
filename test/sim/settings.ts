// What the agents of a simulated world are configured with.
import type { Config } from '#ipam-peer/events.ts';
import type { Scenario } from './scenario.ts';

/** Of every simulated peer; the takeover of a node is ripe before a freed address has rested, so that forgotten quarantine shows. */
export const timing = {
  sessionRenewMs: 700,
  sessionTermMs: 2000,
  sessionWaitMs: 300,
  takeOverAfterMs: 1500,
  takeOverStepMs: 1000,
  spareAfterMs: 2000,
  suspicionMs: 25_000,
};
/** How much slower than the world's an observer's clock may run. */
export const slowestClock = 0.9;

export function configOf(scenario: Scenario, index: number): Config {
  const name = `n${index + 1}`;
  return {
    universe: 'default',
    joinOnUse: scenario.joinOnUse,
    ownAddresses: scenario.ownAddresses,
    ranges: scenario.ranges,
    reserved: scenario.reserved,
    self: `${name}.${name}`,
    node: { name, uid: name },
    restMs: scenario.peersRestMs ?? scenario.restMs,
    allocateWaitMs: 3000,
    requestTimeoutMs: 2000,
    answerTimeoutMs: 1500,
    serveDelayMs: 20,
    pollMs: 1000,
    resyncMs: 8000,
    lowWater: scenario.lowWater,
    mostVias: scenario.mostVias,
    session: `${name}-1`,
    ...timing,
    quarantineMs: scenario.peersRestMs ?? scenario.restMs,
    ...scenario.timing,
  };
}
