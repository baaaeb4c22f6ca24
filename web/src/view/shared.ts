// The markup of a turn for the file that is shared: what the page shows, without its buttons.
import { blocks } from "../lib/blocks.ts";
import { renderBlock } from "../lib/markdown.ts";
import { readRegions } from "../lib/special.ts";
import { escape } from "../lib/tex.ts";
import type { Turn } from "../lib/types.ts";
import { pretty } from "./calls.tsx";

export function sharedMarkup(turn: Turn): string {
  if (turn.role === "tool") return `<pre>${escape(turn.text)}</pre>`;
  if (turn.role !== "assistant") return `<p>${escape(turn.text).replace(/\n/g, "<br>")}</p>`;
  const box = document.createElement("div");
  const { text, regions } = readRegions(turn.text);
  for (const source of blocks(text)) box.append(renderBlock(source, regions));
  for (const button of box.querySelectorAll("button")) button.replaceWith(button.textContent ?? "");
  const calls = (turn.calls ?? []).map((call) => `<pre>${escape(`${call.name} ${pretty(call.arguments)}`)}</pre>`);
  return box.innerHTML + calls.join("");
}
