// What the model sees of an image: the lines of the slice grid, and the answer of /tokenize.
import { isObject } from "./messages.ts";

export interface ImageViews {
  width: number;
  height: number;
  /** Rows and columns of slices, null without slices. */
  grid: [number, number] | null;
  overview: [number, number];
  slice: [number, number] | null;
  tokens: number;
}

export interface VideoViews extends ImageViews {
  frames: number;
  fps: number | null;
  seconds: number | null;
  /** The frame numbers of each picture; several are one composite. */
  pictures: number[][];
  /** When each of these frames appears, in seconds; null without a rate. */
  times: number[][] | null;
}

export type Views = ImageViews | VideoViews;

export function readViews(answer: unknown): Views | undefined {
  if (!isObject(answer)) return undefined;
  const found = [...list(answer["images"]), ...list(answer["videos"])][0];
  if (!isObject(found)) return undefined;
  const views: ImageViews = {
    width: Number(found["width"]),
    height: Number(found["height"]),
    grid: pair(found["grid"]),
    overview: pair(found["overview_size"]) ?? [0, 0],
    slice: pair(found["slice_size"]),
    tokens: Number(found["tokens"]),
  };
  if (!Array.isArray(found["pictures"])) return views;
  const rows = (value: unknown): number[][] => list(value).map((numbers) => list(numbers).map(Number));
  const times = Array.isArray(found["times"]) ? rows(found["times"]) : null;
  return { ...views, frames: Number(found["frames"]), fps: number(found["fps"]), seconds: number(found["seconds"]), pictures: rows(found["pictures"]), times };
}

/** How many views the model encodes. */
export function viewCount(views: Views): number {
  const each = 1 + (views.grid ? views.grid[0] * views.grid[1] : 0);
  return "pictures" in views ? each * views.pictures.length : each;
}

/** Inner lines of a grid, in hundredths of the width and height. */
export function gridLines(grid: [number, number] | null): { rows: number[]; columns: number[] } {
  if (!grid) return { rows: [], columns: [] };
  const inner = (parts: number): number[] => Array.from({ length: parts - 1 }, (_, index) => (100 * (index + 1)) / parts);
  return { rows: inner(grid[0]), columns: inner(grid[1]) };
}

function list(value: unknown): unknown[] {
  return Array.isArray(value) ? value : [];
}

function number(value: unknown): number | null {
  return typeof value === "number" ? value : null;
}

function pair(value: unknown): [number, number] | null {
  return Array.isArray(value) && value.length === 2 ? [Number(value[0]), Number(value[1])] : null;
}
