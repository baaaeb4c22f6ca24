"""The style of an evaluation's page: light and dark, one column on narrow screens."""

STYLE = """
:root { color-scheme: light dark; --ground: #fff; --card: #f6f7f9; --text: #1b1f24; --dim: #5a6472; --line: #d5dae1;
  --good: #116329; --bad: #a40e26; --reference: #12813a; --answer: #b54708; --baseline: #4757d6; }
@media (prefers-color-scheme: dark) { :root { --ground: #14171c; --card: #1d2229; --text: #e4e8ee; --dim: #9aa5b4;
  --line: #363d48; --good: #58c77a; --bad: #ff8089; --reference: #4fce7d; --answer: #ff9d57; --baseline: #93a1ff; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--text); font: 16px/1.45 system-ui, sans-serif; }
header, main { max-width: 68rem; margin: 0 auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 1.25rem 0 .25rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 2rem 0 .5rem; }
h3 { font-size: 1rem; margin: 0; overflow-wrap: anywhere; }
p { margin: .4rem 0; overflow-wrap: anywhere; }
header p, .facts, figcaption, small { color: var(--dim); font-size: .85rem; }
.note { border-left: 3px solid var(--bad); padding-left: .6rem; }
.difference { font-weight: 600; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: left; border-bottom: 1px solid var(--line); vertical-align: top; }
th.number, td.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums; }
article { background: var(--card); border: 1px solid var(--line); border-left: 4px solid var(--good);
  border-radius: 6px; margin: 1rem 0; padding: .75rem 1rem; }
article.failed { border-left-color: var(--bad); }
.passed .score { color: var(--good); }
.failed .score { color: var(--bad); }
.pictures { display: flex; flex-wrap: wrap; gap: .75rem; margin: .5rem 0; }
figure { margin: 0; max-width: 100%; }
figure.none { border: 1px dashed var(--line); padding: .25rem .75rem; max-width: 28rem; }
figcaption { overflow-wrap: anywhere; max-width: 28rem; }
.picture { position: relative; display: inline-block; max-width: 100%; line-height: 0; }
.picture img { max-width: 100%; min-width: min(14rem, 100%); height: auto; border-radius: 3px; }
.picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
rect { fill: none; stroke-width: 3px; vector-effect: non-scaling-stroke; }
rect.reference { stroke: var(--reference); }
rect.answer { stroke: var(--answer); stroke-dasharray: 8 4; }
rect.baseline { stroke: var(--baseline); stroke-dasharray: 2 4; }
dl { display: grid; grid-template-columns: max-content minmax(0, 1fr); align-content: start; gap: .3rem 1rem;
  margin: .5rem 0 0; }
dt { color: var(--dim); font-size: .85rem; padding-top: .1rem; }
dd { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; unicode-bidi: isolate; max-height: 24rem;
  overflow-y: auto; }
dt.reference, span.reference { color: var(--reference); }
dt.answer, span.answer { color: var(--answer); }
dt.baseline, span.baseline { color: var(--baseline); }
a { color: inherit; }
@media (min-width: 56rem) {
  .body { display: grid; grid-template-columns: minmax(0, 28rem) minmax(0, 1fr); gap: 1.5rem; }
}
@media (max-width: 40rem) {
  th, td { padding: .25rem .4rem; }
  dl { grid-template-columns: minmax(0, 1fr); gap: 0; }
  dd { margin-bottom: .5rem; }
}
"""
