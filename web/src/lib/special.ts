// Coordinates in an answer: <ref>, <box>, <quad> and <point> become regions, other special tokens are removed.

export interface Region {
  kind: "box" | "quad" | "point";
  name: string;
  /** Points in thousandths of the picture's width and height. A box has two corners, a quad four. */
  points: [number, number][];
}

export interface Marked {
  /** The text; where a region is named there is a mark: OPEN, its number, CLOSE. */
  text: string;
  regions: Region[];
}

export const OPEN = "\uE000";
export const CLOSE = "\uE001";

// No tag inside a tag: a search for each end through the whole text would take seconds where thousands are not closed.
const SHAPES = /<ref>([^<]*)<\/ref>|<(box|quad|point)>([^<]*)<\/\2>/g;
const TOKENS = /<\|[a-z_]+\|>|<\/?(?:image|slice|unit|image_id)>|<unk>/g;
// The beginning of a tag whose end has not arrived yet.
const UNFINISHED = /<(?:\|[a-z_]*\|?|\/?[a-z_]{0,8}|(?:ref|box|quad|point)>[^<]*(?:<\/?[a-z]{0,5})?)$/;
const CORNERS = { box: 2, quad: 4, point: 1 } as const;

/** The text and regions of an answer. streaming: more may follow, so an unfinished tag at the end is left out. */
export function readRegions(answer: string, streaming = false): Marked {
  const regions: Region[] = [];
  let name = "";
  let end = 0;
  const found = answer.replaceAll(OPEN, "").replaceAll(CLOSE, "");
  let text = found.replace(SHAPES, (all: string, ref: string | undefined, kind: Region["kind"] | undefined, inside: string, at: number, whole: string) => {
    // A name holds for the shapes right after it.
    if (/[^\s,;]/.test(whole.slice(end, at))) name = "";
    end = at + all.length;
    if (ref !== undefined) {
      name = ref.trim();
      // The name is shown with the box that follows it; without one it stays text.
      return `${OPEN}?${name}${CLOSE}`;
    }
    const points = coordinates(inside);
    if (!kind || points.length !== CORNERS[kind]) return all.replace(/<\/?[a-z]+>/g, "");
    regions.push({ kind, name: name || `${regions.length + 1}`, points });
    return `${OPEN}${regions.length - 1}${CLOSE}`;
  });
  text = text.replace(/\uE000\?([^\uE001]*)\uE001(\s*\uE000\d+\uE001)?/g, (_, said: string, mark?: string) => mark?.trim() ?? said);
  if (streaming) text = text.replace(UNFINISHED, "");
  return { text: text.replace(TOKENS, ""), regions };
}

function coordinates(inside: string): [number, number][] {
  const numbers = inside.match(/-?\d+(?:\.\d+)?/g)?.map(Number) ?? [];
  const points: [number, number][] = [];
  for (let index = 0; index + 1 < numbers.length; index += 2) {
    points.push([clamp(numbers[index]!), clamp(numbers[index + 1]!)]);
  }
  return numbers.length % 2 ? [] : points;
}

function clamp(value: number): number {
  return Math.min(1000, Math.max(0, value));
}

/** The text without marks: names stand for their regions. */
export function plainText(answer: string): string {
  const { text, regions } = readRegions(answer);
  return text.replace(/\uE000(\d+)\uE001/g, (_, index: string) => regions[Number(index)]?.name ?? "");
}

/** Regions as JSON, in thousandths and, where the size is known, in pixels. */
export function regionsAsJson(regions: readonly Region[], width?: number, height?: number): string {
  const rows = regions.map((region) => {
    const pixels = width && height ? { pixels: region.points.map(([x, y]) => [Math.round((x * width) / 1000), Math.round((y * height) / 1000)]) } : {};
    return { name: region.name, type: region.kind, points: region.points, ...pixels };
  });
  return `${JSON.stringify(rows, null, 1)}\n`;
}
