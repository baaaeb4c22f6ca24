// Search: conversations whose title or turns contain every word.

export interface Entry {
  id: string;
  text: string;
}

/** The words of a query, in lower case. */
export function words(query: string): string[] {
  return query.toLowerCase().split(/\s+/).filter(Boolean);
}

/** The ids of the entries whose texts, joined by id, contain every word; with the text around the first hit. */
export function search(entries: Iterable<Entry>, query: string): Map<string, string> {
  const wanted = words(query);
  const texts = new Map<string, string>();
  for (const { id, text } of entries) texts.set(id, `${texts.get(id) ?? ""}\n${text}`);
  const found = new Map<string, string>();
  for (const [id, text] of texts) {
    const low = text.toLowerCase();
    if (wanted.every((word) => low.includes(word))) found.set(id, around(text, low.indexOf(wanted[0] ?? "")));
  }
  return found;
}

function around(text: string, at: number, length = 80): string {
  const start = Math.max(0, at - 20);
  const part = text.slice(start, start + length).replace(/\s+/g, " ").trim();
  return (start > 0 ? "…" : "") + part + (start + length < text.length ? "…" : "");
}
