// The status page: one HTML document without anything from elsewhere. Its script asks /api/status every three seconds and
// writes texts only (never HTML), so that no name from a cluster can become markup. Kept as text here so that it bundles.

const style = `
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --good: #1a7f37; --bad: #cf222e; --warn: #9a6700; }
@media (prefers-color-scheme: dark) { :root { --good: #3fb950; --bad: #f85149; --warn: #d29922; } }
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 66rem; margin: 0 auto; padding: 1.5rem 1rem 4rem; }
header { display: flex; gap: .8rem; align-items: baseline; flex-wrap: wrap; border-bottom: 1px solid var(--line); padding-bottom: .8rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.05rem; margin: 2rem 0 .6rem; }
.badge { border-radius: 1rem; padding: .05rem .7rem; color: #fff; background: var(--bad); font-size: .85rem; }
.badge.good { background: var(--good); } .quiet { opacity: .7; }
#gone { background: var(--bad); color: #fff; padding: .4rem .8rem; border-radius: .4rem; margin-top: 1rem; }
dl { display: grid; grid-template-columns: repeat(auto-fit, minmax(11rem, 1fr)); gap: .6rem 1.5rem; margin: 1.2rem 0 0; }
dt { font-size: .8rem; opacity: .7; } dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.bar { position: relative; height: 2.2rem; background: var(--soft); border-radius: .4rem; overflow: hidden; margin: .3rem 0; }
.bar span { position: absolute; inset-block: 0; border-right: 1px solid Canvas; color: #fff; font-size: .8rem; line-height: 2.2rem; padding: 0 .4rem; overflow: hidden; white-space: nowrap; text-overflow: ellipsis; }
.ends { display: flex; justify-content: space-between; font-size: .8rem; opacity: .7; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; width: 100%; }
th { text-align: left; font-weight: 500; font-size: .8rem; opacity: .7; }
th, td { padding: .35rem .8rem .35rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
td { font-variant-numeric: tabular-nums; overflow-wrap: anywhere; } td.n, th.n { text-align: right; }
.swatch { display: inline-block; width: .7rem; height: .7rem; border-radius: .15rem; margin-right: .5rem; }
.finding { border-left: .25rem solid var(--warn); padding: .1rem 0 .1rem .8rem; margin: .5rem 0; } .finding.error { border-color: var(--bad); }
`;

/** Exported for the hash in the page's Content-Security-Policy. */
export const statusPageScript: string = `
'use strict';
const $ = (id) => document.getElementById(id);
const node = (tag, text, cls) => { const n = document.createElement(tag); if (text !== undefined) n.textContent = text; if (cls) n.className = cls; return n; };
const fill = (id, children) => $(id).replaceChildren(...children);
const number = (n) => n.toLocaleString('en');
const ago = (ms) => ms < 90e3 ? Math.max(0, Math.round(ms / 1e3)) + ' s' : ms < 5400e3 ? Math.round(ms / 6e4) + ' min' : ms < 1728e5 ? Math.round(ms / 36e5) + ' h' : Math.round(ms / 864e5) + ' d';
const toInt = (address) => address.split('.').reduce((n, part) => n * 256 + Number(part), 0);
const span = (cidr) => { const [address, prefix] = cidr.split('/'); return { start: toInt(address), size: 2 ** (32 - prefix) }; };
const last = (cidr) => { const { start, size } = span(cidr); const n = start + size - 1; return [24, 16, 8, 0].map((s) => Math.floor(n / 2 ** s) % 256).join('.'); };
const hue = (i) => 'hsl(' + Math.round((205 + i * 137.5) % 360) + ' 55% 42%)';

function facts(s) {
  const self = s.peers.find((p) => p.self);
  const d = s.datapath;
  const rows = [
    ['Own blocks', self && self.blocks.length ? self.blocks.join(', ') + ' (' + self.sharePercent + ' %)' : 'none yet'],
    ['Addresses', number(s.addresses.free) + ' free, ' + number(s.addresses.leased) + ' leased, ' + number(s.addresses.resting) + ' resting'],
    ['Overlay', d ? d.overlayDevice + ' ' + s.overlayAddresses.join(', ') + ', MTU ' + d.mtuBytes : 'not there yet'],
    ['Peers in the kernel', d ? d.peersProgrammed + ' of ' + s.peers.filter((p) => !p.self).length : '0'],
    ['Registry', s.registry.engine + ', ' + (s.registry.answeredAtMs === null ? 'no answer yet' : 'answered ' + ago(s.nowMs - s.registry.answeredAtMs) + ' ago')],
    ['Agent', 'version ' + s.version + ', up ' + ago(s.nowMs - s.startedAtMs)],
  ];
  fill('facts', rows.map(([k, v]) => { const d = node('div'); d.append(node('dt', k), node('dd', v)); return d; }));
}
function ranges(s) {
  fill('ranges', s.ranges.filter((r) => !r.includes(':')).map((range) => {
    const all = span(range); const box = node('div'); const bar = node('div', undefined, 'bar'); bar.setAttribute('role', 'img');
    const told = [];
    s.peers.forEach((peer, i) => peer.blocks.filter((b) => !b.includes(':')).forEach((block) => {
      const part = span(block);
      if (part.start < all.start || part.start >= all.start + all.size) return;
      const piece = node('span', peer.nodeName); piece.title = peer.nodeName + ': ' + block;
      piece.style.left = (part.start - all.start) / all.size * 100 + '%'; piece.style.width = part.size / all.size * 100 + '%'; piece.style.background = hue(i);
      told.push(piece.title); bar.append(piece);
    }));
    bar.setAttribute('aria-label', told.join('; '));
    const ends = node('div', undefined, 'ends'); ends.append(node('span', range.split('/')[0]), node('span', range), node('span', last(range)));
    box.append(bar, ends); return box;
  }));
}
const row = (cells) => { const tr = node('tr'); cells.forEach((c) => tr.append(c instanceof Node ? c : node('td', c))); return tr; };
function peers(s) {
  fill('peers', s.peers.map((p, i) => {
    const name = node('td'); const mark = node('span', undefined, 'swatch'); mark.style.background = hue(i);
    name.append(mark, p.nodeName + (p.self ? ' (this node)' : ''));
    return row([name, p.underlayAddress || 'unknown', p.overlayAddresses.join(', '), p.blocks.join(', ') || 'none', node('td', number(p.addresses), 'n'), node('td', p.sharePercent + ' %', 'n')]);
  }));
}
function leases(s) {
  $('count').textContent = s.leasesTotal > s.leases.length ? '(newest ' + s.leases.length + ' of ' + s.leasesTotal + ')' : '(' + s.leasesTotal + ')';
  fill('leases', s.leases.map((l) => row([l.addresses.join(', '), l.pod || l.containerId.slice(0, 12), l.ifname + ' / ' + l.hostIfname, l.state, node('td', ago(s.nowMs - l.sinceMs), 'n')])));
}
function findings(s) {
  fill('findings', s.findings.length ? s.findings.map((f) => { const d = node('div', undefined, 'finding ' + f.severity); d.append(node('div', f.message), node('div', f.nextStep, 'quiet')); return d; }) : [node('p', 'None.', 'quiet')]);
}
function show(s) {
  document.title = s.nodeName + (s.ready ? '' : ' (not ready)') + ' \\u2013 Weft';
  $('node').textContent = s.nodeName;
  $('ready').textContent = s.ready ? 'ready' : 'waiting for ' + s.waitingFor; $('ready').className = s.ready ? 'badge good' : 'badge';
  facts(s); ranges(s); peers(s); leases(s); findings(s);
}
async function turn() {
  try {
    const answer = await fetch('api/status?leases=200', { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error('status ' + answer.status);
    show(await answer.json()); $('gone').hidden = true;
  } catch (error) { $('gone').hidden = false; $('gone').textContent = 'The agent does not answer (' + error.message + '). What follows is its last word.'; }
  setTimeout(turn, document.hidden ? 15000 : 3000);
}
turn();
`;

export const statusPage: string = `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1"><title>Weft</title>
<link rel="icon" href="data:,"><style>${style}</style></head><body>
<header><h1 id="node">Weft</h1><span id="ready" class="badge" aria-live="polite">asking</span><span class="quiet">Weft agent</span></header>
<div id="gone" role="alert" hidden></div><noscript><p>This page needs JavaScript; the same as JSON: <a href="api/status">api/status</a>.</p></noscript>
<dl id="facts"></dl>
<h2>The range</h2><div id="ranges"></div>
<h2>Nodes</h2><div class="scroll"><table><thead><tr><th>Node<th>Underlay<th>Overlay<th>Blocks<th class="n">Addresses<th class="n">Share</tr></thead><tbody id="peers"></tbody></table></div>
<h2>Findings</h2><div id="findings"></div>
<h2>Leases <span id="count" class="quiet"></span></h2><div class="scroll"><table><thead><tr><th>Address<th>Pod<th>Interface<th>State<th class="n">Age</tr></thead><tbody id="leases"></tbody></table></div>
<script>${statusPageScript}</script></body></html>
`;
