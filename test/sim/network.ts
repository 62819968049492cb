// The network between peers and the registry, and the watches: both lose, delay, double and reorder; an answer may leave open
// whether a write took effect.
import type { Answer } from '#ipam-peer/events.ts';
import type { SimPeer } from './peer.ts';
import type { Change, RegistryRequest } from './registry-model.ts';
import type { Happening, World } from './world.ts';

export function send(world: World, peer: SimPeer, request: RegistryRequest): void {
  const { random, faults, counters } = world;
  const isWrite = request.kind === 'create' || request.kind === 'update';
  if (!peer.reachable || random.chance(faults.requestLost)) {
    counters.count('requestLost');
    // The caller may learn that something went wrong, or hear nothing.
    if (random.chance(0.5)) reply(world, peer, peer.epoch, request.request, silence(isWrite));
    return;
  }
  const happening: Happening = { kind: 'request', peer, epoch: peer.epoch, request };
  let delayMs = random.between(0.5, 10);
  if (random.chance(faults.requestLate)) {
    counters.count('requestLate');
    delayMs = random.between(50, 8000);
  }
  world.agenda.add(world.nowMs + delayMs, happening);
  if (isWrite && random.chance(faults.requestTwice)) {
    counters.count('requestTwice');
    world.agenda.add(world.nowMs + random.between(0.5, 5000), happening);
  }
}

export function arrive(world: World, peer: SimPeer, epoch: number, request: RegistryRequest): void {
  const isWrite = request.kind === 'create' || request.kind === 'update';
  const doubtful = world.random.chance(world.faults.unknown);
  if (doubtful && (!isWrite || world.random.chance(0.5))) {
    if (isWrite) world.counters.count('unknownNotDone');
    reply(world, peer, epoch, request.request, silence(isWrite));
    return;
  }
  const stale = world.scenario.staleReads === true && world.random.chance(0.3);
  const answer = world.registry.execute(request, stale);
  if (isWrite)
    world.note(
      `registry: ${peer.label} ${request.kind} ${aim(request)} ${answer.kind}${answer.kind === 'ok' ? ` ${answer.record.version}` : ''}`,
    );
  if (doubtful) world.counters.count('unknownButDone');
  reply(world, peer, epoch, request.request, doubtful ? silence(true) : answer);
}

export function reply(world: World, peer: SimPeer, epoch: number, id: number, answer: Answer): void {
  const { random, faults, counters } = world;
  if (random.chance(faults.replyLost)) {
    counters.count('replyLost');
    return;
  }
  const happening: Happening = { kind: 'reply', peer, epoch, id, answer };
  let delayMs = random.between(0.5, 10);
  if (random.chance(faults.replyLate)) {
    counters.count('replyLate');
    delayMs = random.between(50, 5000);
  }
  world.agenda.add(world.nowMs + delayMs, happening);
  if (random.chance(faults.replyTwice)) {
    counters.count('replyTwice');
    world.agenda.add(world.nowMs + random.between(1, 3000), happening);
  }
}

export function tellAll(world: World, change: Change): void {
  if (change.record === 'session') return;
  for (const peer of world.peers) tell(world, peer, change);
  for (const twin of world.twins) tell(world, twin, change);
}

export function tell(world: World, peer: SimPeer, change: Change): void {
  const { random, faults, counters } = world;
  if (random.chance(faults.hintLost)) {
    counters.count('hintLost');
    return;
  }
  let delayMs = random.between(0.5, 20);
  if (random.chance(faults.hintLate)) {
    counters.count('hintLate');
    delayMs = random.between(50, 10_000);
  }
  world.agenda.add(world.nowMs + delayMs, { kind: 'hint', peer, change });
  if (random.chance(faults.hintTwice)) {
    counters.count('hintTwice');
    world.agenda.add(world.nowMs + random.between(1, 10_000), { kind: 'hint', peer, change });
  }
}

export function hint(world: World, peer: SimPeer, change: Change): void {
  if (!peer.reachable) return;
  if (change.record === 'universe') {
    world.feed(peer, { kind: 'universe', ...(change.stored && { record: change.stored }) });
    return;
  }
  world.feed(peer, { kind: 'hint', name: change.name, ...(change.stored && { record: change.stored }) });
}

/** A watch begins with what exists. */
export function hintAll(world: World, peer: SimPeer): void {
  for (const { stored } of world.registry.peers.values()) {
    tell(world, peer, { record: 'peer', name: stored.name, stored });
  }
}

/** What a request is about. */
export function aim(request: RegistryRequest): string {
  const record = 'record' in request ? `${request.record} ` : '';
  const { name, version = '' } = 'stored' in request ? request.stored : { name: 'name' in request ? request.name : '' };
  return `${record}${name} ${version}`.trim();
}

function silence(isWrite: boolean): Answer {
  return isWrite ? { kind: 'unknown', reason: 'no answer' } : { kind: 'failed', reason: 'no answer' };
}
