// Page numbers as people write them: "1-3, 7".

const MAX_PAGES = 64;

/** The numbers of pages in order, undefined where the text names none or one that is not there. */
export function readPages(text: string, count: number): number[] | undefined {
  const found: number[] = [];
  for (const part of text.split(",")) {
    const match = /^\s*(\d+)\s*(?:[-–]\s*(\d+)\s*)?$/.exec(part);
    if (!match) return undefined;
    const first = Number(match[1]);
    const last = Number(match[2] ?? match[1]);
    if (first < 1 || last > count || first > last) return undefined;
    for (let page = first; page <= last; page++) if (!found.includes(page)) found.push(page);
  }
  return found.length && found.length <= MAX_PAGES ? found : undefined;
}
