// The endpoints as a monitor, a browser and a mistaken client meet them.
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { describe, expect, it } from 'vitest';
import { WeftError } from '#agent/errors.ts';
import { createMetrics, metricsMarkdown } from '#agent/observe/metrics.ts';
import { metricsServer, startObserving, statusServer } from '#agent/observe/server.ts';
import type { ObserveOptions } from '#agent/observe/server.ts';
import type { StatusSources } from '#agent/observe/status.ts';
import { sources, view } from './fixture.ts';

function options(changes: Partial<StatusSources> = {}): ObserveOptions {
  const given = sources(changes);
  return { metricsListen: ':6782', statusListen: '127.0.0.1:6785', sources: given, metrics: createMetrics(given) };
}

const unready = { ipam: () => ({ ...view, ready: false, waitingFor: 'a block' }) };

describe('health', () => {
  it('is well while nothing else is', async () => {
    const server = metricsServer(options({ ipam: () => undefined, datapath: () => undefined, starting: () => 'all' }));
    expect((await server.inject('/healthz')).statusCode).toBe(200);
  });

  it('says on both listeners whether an ADD would succeed, and why not', async () => {
    for (const make of [metricsServer, statusServer]) {
      expect((await make(options()).inject('/readyz')).statusCode).toBe(200);
      const answer = await make(options(unready)).inject('/readyz');
      expect([answer.statusCode, answer.json()]).toEqual([503, { ready: false, waitingFor: 'a block' }]);
    }
  });
});

describe('metrics', () => {
  it('shows the state at the moment of the scrape', async () => {
    const given = options();
    given.metrics.cniRequest('ADD', 0, 3);
    given.metrics.cniRequest('ADD', 11, 20_000);
    for (let scrape = 0; scrape < 2; scrape++) {
      const text = (await metricsServer(given).inject('/metrics')).body;
      expect(text).toContain('weft_ready 1');
      expect(text).toContain('weft_addresses{state="leased"} 2');
      expect(text).toContain('weft_datapath_repairs_total 1');
      expect(text).toContain('weft_build_info{version="9.9.9"} 1');
      expect(text).toContain('weft_cni_requests_total{command="ADD",code="11"} 1');
      expect(text).toContain('weft_cni_duration_seconds_count{command="ADD"} 2');
    }
  });

  it('does not tell the status of the node to the network', async () => {
    expect((await metricsServer(options()).inject('/api/status')).statusCode).toBe(404);
    expect((await metricsServer(options()).inject('/')).statusCode).toBe(404);
  });

  it('has each metric on the page docs/metrics.md (bring it up to date with vitest -u)', async () => {
    const page = metricsMarkdown(await options().metrics.describe());
    await expect(page).toMatchFileSnapshot('../../../docs/metrics.md');
  });
});

describe('status', () => {
  it('serves the picture as JSON', async () => {
    const answer = await statusServer(options()).inject('/api/status');
    expect(answer.json()).toMatchObject({ nodeName: 'host1', ready: true, leasesTotal: 2 });
  });

  it.each(['leases=-1', 'leases=10001', 'leases=x', 'leases=1.5'])('refuses ?%s', async (query) => {
    expect((await statusServer(options()).inject(`/api/status?${query}`)).statusCode).toBe(400);
  });

  it('gives as many leases as asked for', async () => {
    expect((await statusServer(options()).inject('/api/status?leases=1')).json()).toMatchObject({ leasesTotal: 2 });
  });

  it('is a page without anything from elsewhere, its script allowed by hash alone', async () => {
    const answer = await statusServer(options()).inject('/');
    expect(answer.body).not.toMatch(/https?:|\/\//);
    const policy = String(answer.headers['content-security-policy']);
    expect(policy).toMatch(/default-src 'none'/);
    expect(policy).toMatch(/script-src 'sha256-/);
    expect(answer.body).not.toContain('innerHTML');
  });

  it.each([
    ['evil.example', 421],
    ['evil.example:6785', 421],
    ['localhost:6785', 200],
    ['127.0.0.1:40000', 200],
    ['[::1]:6785', 200],
  ])('asked as %s answers %i (DNS rebinding)', async (host, code) => {
    expect((await statusServer(options()).inject({ url: '/api/status', headers: { host } })).statusCode).toBe(code);
  });

  it('may be asked by name when it listens for others too', async () => {
    const server = statusServer({ ...options(), statusListen: ':6785' });
    expect((await server.inject({ url: '/api/status', headers: { host: 'node1:6785' } })).statusCode).toBe(200);
  });

  it.each(['POST', 'PUT', 'DELETE'] as const)('does not know %s', async (method) => {
    expect((await statusServer(options()).inject({ method, url: '/api/status' })).statusCode).toBe(404);
  });
});

describe('listening', () => {
  it('names the setting when the port is taken, and lets go of the other', async () => {
    const taken = createServer().listen(0, '127.0.0.1');
    const other = createServer().listen(0, '127.0.0.1');
    await new Promise((resolve) => other.once('listening', resolve));
    const port = (other.address() as AddressInfo).port;
    await new Promise((resolve) => other.close(resolve));
    const statusListen = `127.0.0.1:${(taken.address() as AddressInfo).port}`;
    const metricsListen = `127.0.0.1:${port}`;
    await expect(startObserving({ ...options(), metricsListen, statusListen })).rejects.toThrow(
      /setting statusListen\): EADDRINUSE/,
    );
    await expect(startObserving({ ...options(), metricsListen: 'off', statusListen })).rejects.toBeInstanceOf(
      WeftError,
    );
    const servers = await startObserving({ ...options(), metricsListen, statusListen: 'off' });
    expect((await fetch(`http://127.0.0.1:${port}/healthz`)).status).toBe(200);
    await servers.close();
    await new Promise((resolve) => taken.close(resolve));
  });
});
