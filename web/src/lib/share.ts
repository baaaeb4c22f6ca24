// One HTML file of a conversation: no script, pictures inside.
import { escape } from "./tex.ts";

export interface SharedTurn {
  role: string;
  /** Markup of the page's own renderer, which is clean. */
  html: string;
  pictures: { name: string; url: string }[];
}

const STYLE = `:root{color-scheme:light dark;font:16px/1.6 system-ui,sans-serif}body{max-width:46rem;margin:2rem auto;padding:0 1rem}
section{margin:1.5rem 0}h2{font-size:.85rem;opacity:.65;margin:0;font-weight:600}img{max-width:100%;max-height:26rem;border-radius:10px}
.user{background:#8882;border-radius:14px;padding:.6rem 1rem}pre{overflow:auto;background:#8882;padding:.8rem;border-radius:8px}
table{border-collapse:collapse}td,th{border:1px solid #8886;padding:.25rem .6rem}.code-head,button[data-copy]{display:none}`;

export function sharedPage(title: string, turns: readonly SharedTurn[]): string {
  const sections = turns.map((turn) => {
    const pictures = turn.pictures.map(({ name, url }) =>
      url.startsWith("data:") ? `<img alt="${escape(name)}" src="${escape(url)}">` : `<p>▶ ${escape(name)}</p>`,
    );
    return `<section class="${escape(turn.role)}"><h2>${escape(turn.role)}</h2>${pictures.join("")}${turn.html}</section>`;
  });
  const policy = "default-src 'none'; img-src data:; style-src 'unsafe-inline'";
  return `<!doctype html><html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><meta http-equiv="Content-Security-Policy" content="${policy}"><title>${escape(title || "pocketvlm")}</title><style>${STYLE}</style></head><body><h1>${escape(title)}</h1>${sections.join("\n")}</body></html>\n`;
}
