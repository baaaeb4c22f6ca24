// Attachments: their bytes in the database, object URLs for showing them, uploads, and what the model sees of them.
import { signal } from "@preact/signals";
import { randomId } from "../lib/ids.ts";
import { mediaPart, type Source } from "../lib/messages.ts";
import type { Attachment, Mode } from "../lib/types.ts";
import { AwayError } from "../lib/problems.ts";
import { readViews, type Views } from "../lib/views.ts";
import { get, isGone, post, request, untilReachable } from "./api.ts";
import * as db from "./db.ts";
import { hold } from "./tabs.ts";

/** Smaller files travel inside the request. */
const INLINE_BYTES = 96 << 10;
const VIDEO = /\.(mp4|m4v|mov|mkv|webm|avi|mpe?g|ts|wmv|flv|3gp|ogv)$/i;
const IMAGE = /\.(png|jpe?g|gif|webp|bmp|tiff?|heic|heif|avif|ico|ppm|jp2)$/i;

export type Kind = "image" | "video" | "pdf";

export function kindOf(file: { name: string; type: string }): Kind | undefined {
  if (file.type === "application/pdf" || /\.pdf$/i.test(file.name)) return "pdf";
  if (file.type.startsWith("video/") || VIDEO.test(file.name)) return "video";
  if (file.type.startsWith("image/") || IMAGE.test(file.name)) return file.type === "image/svg+xml" ? undefined : "image";
  return undefined;
}

// --- uploads: file ids by key of the bytes, for this page's life ---

const uploads = new Map<string, Promise<string>>();

async function send(blob: Blob, name: string): Promise<string> {
  const form = new FormData();
  form.append("purpose", "vision");
  form.append("file", blob, name || "file");
  const stored = (await (await request("v1/files", { method: "POST", body: form })).json()) as { id: string };
  return stored.id;
}

async function bytesOf(attachment: Attachment, key = attachment.blob): Promise<Blob> {
  const blob = await db.blobs.get(key);
  if (!blob) throw new Error(`${attachment.name}: its bytes are not in this browser any more`);
  return blob;
}

/** The id of an uploaded attachment; the upload happens once. */
export function uploaded(attachment: Attachment): Promise<string> {
  const known = uploads.get(attachment.blob);
  if (known) return known;
  const sent = bytesOf(attachment).then((blob) => send(blob, attachment.name));
  uploads.set(attachment.blob, sent);
  sent.catch(() => uploads.delete(attachment.blob));
  return sent;
}

/** Forget all ids: the server does not know one of them any more. */
export function forgetUploads(): void {
  uploads.clear();
}

/** Do `work`; once more with new uploads where the server has forgotten the old ones. */
export async function withUploads<T>(work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!isGone(error)) throw error;
    forgetUploads();
    return await work();
  }
}

/** How a request names an attachment's data. */
export async function sourceOf(attachment: Attachment): Promise<Source> {
  if (attachment.size > INLINE_BYTES) return { file_id: await uploaded(attachment) };
  return { url: await dataUri(await bytesOf(attachment)) };
}

export function dataUri(blob: Blob): Promise<string> {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(String(reader.result));
    reader.onerror = () => reject(reader.error ?? new Error("a file cannot be read"));
    reader.readAsDataURL(blob);
  });
}

/** An attachment's bytes, or those under another of its keys, as a data URI. */
export async function fullData(attachment: Attachment, key = attachment.blob): Promise<string> {
  return dataUri(await bytesOf(attachment, key));
}

// --- object URLs ---

const shownUrls = new Map<string, Promise<string>>();

/** An address at which the browser shows the bytes under a key. */
export function objectUrl(key: string): Promise<string> {
  let url = shownUrls.get(key);
  if (!url) {
    url = db.blobs.get(key).then((blob) => (blob ? URL.createObjectURL(blob) : ""));
    url = url.catch(() => {
      shownUrls.delete(key);
      return "";
    });
    shownUrls.set(key, url);
  }
  return url;
}

// --- making attachments ---

async function store(blob: Blob): Promise<string> {
  const key = randomId();
  hold(key);
  await db.blobs.put(key, blob);
  return key;
}

export async function attach(file: Blob, name: string, kind: "image" | "video"): Promise<Attachment> {
  const blob = await store(file);
  const made: Attachment = { id: randomId(), kind, name, mime: file.type, size: file.size, blob, options: {} };
  return kind === "image" ? withSize(made, file) : made;
}

async function withSize(made: Attachment, file: Blob): Promise<Attachment> {
  try {
    const bitmap = await createImageBitmap(file);
    const sized = { ...made, width: bitmap.width, height: bitmap.height };
    bitmap.close();
    return sized;
  } catch {
    // The browser does not know the format: the server draws a copy, or says what is wrong with the file.
    const id = await uploaded(made);
    const png = await (await request(`v1/files/${id}/preview`)).blob();
    return { ...made, shown: await store(png) };
  }
}

/** An upload by address: the server fetches it, and the page takes a copy. */
export async function fetchUrl(url: string): Promise<{ blob: Blob; name: string }> {
  const stored = await post<{ id: string; filename: string }>("v1/files/fetch", { url });
  const blob = await (await request(`v1/files/${stored.id}/content`)).blob();
  const head = new Uint8Array(await blob.slice(0, 16).arrayBuffer());
  return { blob: new Blob([blob], { type: sniffed(head) }), name: stored.filename };
}

/** The media type that the first bytes of a file tell. */
export function sniffed(head: Uint8Array): string {
  const text = String.fromCharCode(...head);
  if (text.startsWith("%PDF")) return "application/pdf";
  if (text.startsWith("\x89PNG")) return "image/png";
  if (text.startsWith("\xFF\xD8")) return "image/jpeg";
  if (text.startsWith("GIF8")) return "image/gif";
  if (text.startsWith("RIFF") && text.slice(8, 12) === "WEBP") return "image/webp";
  if (text.slice(4, 8) === "ftyp") return /^(hei|mif|avif)/.test(text.slice(8, 12)) ? "image/heic" : "video/mp4";
  if (text.startsWith("\x1A\x45\xDF\xA3")) return "video/webm";
  if (text.startsWith("RIFF")) return "video/x-msvideo";
  return "image/*";
}

export interface PdfFile {
  id: string;
  name: string;
  pages: number;
}

export async function openPdf(file: Blob, name: string): Promise<PdfFile> {
  const id = await send(file, name);
  return { id, name, pages: (await get<{ count: number }>(`v1/files/${id}/pages`)).count };
}

export async function pdfPage(pdf: PdfFile, number: number): Promise<Attachment> {
  const png = await (await request(`v1/files/${pdf.id}/pages/${number}`)).blob();
  return attach(png, `${pdf.name} p. ${number}`, "image");
}

// --- what the model sees ---

/** Views by attachment, options, mode and model; "…" while the server counts. */
const seen = signal<ReadonlyMap<string, Views | "…" | { fault: string }>>(new Map());
// Requests for views at once: more would let a question wait for those of a hundred pictures.
const MAX_COUNTS = 2;
let counting = 0;
const waiting: (() => void)[] = [];

/** What becomes of an attachment in a mode; asks the server once. model: an adapter's name, empty for the server's model. */
export function viewsOf(attachment: Attachment, mode: Mode, model: string): Views | "…" | { fault: string } {
  const key = `${attachment.blob} ${mode} ${model} ${JSON.stringify(attachment.options)}`;
  const known = seen.value.get(key);
  if (known) return known;
  queueMicrotask(() => {
    if (seen.peek().has(key)) return;
    remember(key, "…");
    void count(attachment, mode, model).then((views) => remember(key, views));
  });
  return "…";
}

function remember(key: string, value: Views | "…" | { fault: string }): void {
  seen.value = new Map(seen.peek()).set(key, value);
}

async function count(attachment: Attachment, mode: Mode, model: string): Promise<Views | { fault: string }> {
  while (counting >= MAX_COUNTS) await new Promise<void>((resolve) => waiting.push(resolve));
  counting += 1;
  try {
    for (;;) {
      try {
        return (await askViews(attachment, mode, model)) ?? { fault: "?" };
      } catch (error) {
        if (!(error instanceof AwayError)) return { fault: error instanceof Error ? error.message : String(error) };
        await untilReachable();
      }
    }
  } finally {
    counting -= 1;
    waiting.shift()?.();
  }
}

function askViews(attachment: Attachment, mode: Mode, model: string): Promise<Views | undefined> {
  return withUploads(async () => {
    const part = mediaPart(attachment, await sourceOf(attachment), { downsample_mode: mode });
    return readViews(await post("tokenize", { messages: [{ role: "user", content: [part] }], ...(model ? { model } : {}) }));
  });
}

const frames = new Map<string, Promise<string>>();

/** An address of one frame of a video, drawn by the server. */
export function frameUrl(attachment: Attachment, number: number): Promise<string> {
  const key = `${attachment.blob} ${number}`;
  let url = frames.get(key);
  if (!url) {
    url = withUploads(async () => {
      const id = await uploaded(attachment);
      return URL.createObjectURL(await (await request(`v1/files/${id}/frames/${number}`)).blob());
    });
    url.catch(() => frames.delete(key));
    frames.set(key, url);
  }
  return url;
}
