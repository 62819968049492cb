// The status page's script, run against a document of a few lines: what a person sees, and that names never become markup.
import { createContext, Script } from 'node:vm';
import { describe, expect, it } from 'vitest';
import { statusPageScript } from '#agent/observe/page.ts';
import { buildStatus } from '#agent/observe/status.ts';
import type { Status } from '#agent/observe/status.ts';
import { peer, sources, view } from './fixture.ts';

/** As much of a DOM as the script uses; markup cannot come in, because only texts and children are kept. */
class FakeNode {
  readonly tag: string;
  readonly children: (FakeNode | string)[] = [];
  readonly style: Record<string, string> = {};
  className = '';
  title = '';
  hidden = false;
  #text = '';
  constructor(tag: string) {
    this.tag = tag;
  }
  get textContent(): string {
    return this.#text + this.children.map((child) => (typeof child === 'string' ? child : child.textContent)).join('|');
  }
  set textContent(text: unknown) {
    this.#text = String(text);
  }
  append(...children: readonly (FakeNode | string)[]): void {
    this.children.push(...children);
  }
  replaceChildren(...children: readonly (FakeNode | string)[]): void {
    this.children.splice(0, Infinity, ...children);
  }
  setAttribute(name: string, value: string): void {
    if (name === 'aria-label') this.title = value;
  }
}

async function render(status: Status | undefined): Promise<(id: string) => FakeNode> {
  const byId = new Map<string, FakeNode>();
  const get = (id: string): FakeNode => {
    const node = byId.get(id) ?? new FakeNode('div');
    byId.set(id, node);
    return node;
  };
  const answered = Promise.withResolvers<void>();
  const context = createContext({
    document: { getElementById: get, createElement: (tag: string) => new FakeNode(tag), hidden: false, title: '' },
    Node: FakeNode,
    AbortSignal,
    fetch: async () =>
      status === undefined
        ? Promise.reject(new Error('refused'))
        : { ok: true, json: async () => JSON.parse(JSON.stringify(status)) as unknown },
    setTimeout: () => answered.resolve(),
  });
  new Script(statusPageScript).runInContext(context);
  await answered.promise;
  return get;
}

describe('status page', () => {
  it('shows the node, the split of the range, the peers and the leases', async () => {
    const get = await render(buildStatus(sources(), 100));
    expect(get('node').textContent).toBe('host1');
    expect(get('ready').textContent).toBe('ready');
    const [bar, ends] = (get('ranges').children[0] as FakeNode).children as FakeNode[];
    expect(bar?.children.map((piece) => (piece as FakeNode).style)).toMatchObject([
      { left: '0%', width: '50%' },
      { left: '50%', width: '25%' },
      { left: '75%', width: '25%' },
    ]);
    expect(bar?.title).toBe('host1: 10.32.0.0/13; host2: 10.40.0.0/14; host3: 10.44.0.0/14');
    expect(ends?.textContent).toBe('10.32.0.0|10.32.0.0/12|10.47.255.255');
    expect(get('peers').textContent).toContain('host2|192.0.2.2|10.32.0.2|10.40.0.0/14|262,144|25 %');
    expect(get('leases').textContent).toContain('10.32.0.12|default/web-2|eth0 / weft2|active|58 s');
    expect(get('facts').textContent).toContain('peers, answered 2 s ago');
    expect(get('findings').textContent).toBe('None.');
    expect(get('gone').hidden).toBe(true);
  });

  it('works while nothing is there yet', async () => {
    const nothing = {
      ipam: () => undefined,
      datapath: () => undefined,
      leases: () => [],
      starting: () => 'the registry',
    };
    const get = await render(buildStatus(sources(nothing), 100));
    expect(get('ready').textContent).toBe('waiting for the registry');
    expect(get('facts').textContent).toContain('no answer yet');
  });

  it('leaves out of the bar what is not in the range, and draws no IPv6', async () => {
    const peers = [peer(1, ['10.32.0.0/13', '172.16.0.0/16', 'fd00::/64'])];
    const get = await render(
      buildStatus(sources({ ipam: () => ({ ...view, ranges: ['10.32.0.0/12', 'fd00::/48'], peers }) }), 0),
    );
    expect(get('ranges').children).toHaveLength(1);
    expect(((get('ranges').children[0] as FakeNode).children[0] as FakeNode).children).toHaveLength(1);
  });

  it('says when the agent is away', async () => {
    const get = await render(undefined);
    expect(get('gone').hidden).toBe(false);
    expect(get('gone').textContent).toContain('The agent does not answer (refused)');
  });
});
