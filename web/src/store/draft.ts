// Drafts: the text and attachments of the composer and of a question that is edited.
import { batch, effect, signal, type Signal } from "@preact/signals";
import type { Attachment, Settings } from "../lib/types.ts";
import { session } from "../lib/storage.ts";
import { t } from "../text/index.ts";
import { attach, fetchUrl, kindOf, openPdf, pdfPage, sniffed, type PdfFile } from "./media.ts";
import { notice, report } from "./state.ts";
import { hold, leaveHeld } from "./tabs.ts";

export interface Draft {
  text: Signal<string>;
  attachments: Signal<Attachment[]>;
  /** Files that are being read or fetched. */
  pending: Signal<number>;
}

export function newDraft(text = "", attachments: Attachment[] = []): Draft {
  for (const each of attachments) hold(each.blob, each.shown);
  return { text: signal(text), attachments: signal(attachments), pending: signal(0) };
}

/** The composer's. */
export const draft = newDraft();
const DRAFT = "pocketvlm-draft";

/** The draft of this tab is there again after a reload. */
export function keepDraft(): void {
  const saved = session.get(DRAFT);
  if (saved) {
    const { text, attachments } = JSON.parse(saved) as { text: string; attachments: Attachment[] };
    for (const each of attachments) hold(each.blob, each.shown);
    batch(() => {
      draft.text.value = text;
      draft.attachments.value = attachments;
    });
  }
  effect(() => session.set(DRAFT, JSON.stringify({ text: draft.text.value, attachments: draft.attachments.value })));
}

/** Before the page goes. */
export function leaveDraft(): void {
  leaveHeld(draft.attachments.value.flatMap(({ blob, shown }) => (shown ? [blob, shown] : [blob])));
}

/** Where dropped and pasted files go: the question that is edited, or the composer. */
export const target = signal<Draft>(draft);
/** A PDF file whose pages are to be chosen, the draft that they go to, and their place in it. */
export interface Choice {
  pdf: PdfFile;
  draft: Draft;
  place: number;
}

/** The PDF files whose pages are to be chosen, one after the other. */
export const choosing = signal<readonly Choice[]>([]);
/** Two sets of settings that the next question is answered with. */
export const comparison = signal<{ label: string; settings: Settings }[] | undefined>(undefined);

async function during(to: Draft, work: () => Promise<void>): Promise<void> {
  to.pending.value += 1;
  try {
    await work();
  } catch (error) {
    report(error);
  } finally {
    to.pending.value -= 1;
  }
}

// Files come in the order in which they were given, whichever is read first.
const places = new Map<string, number>();
let nextPlace = 0;

function add(to: Draft, made: Attachment, place: number): void {
  places.set(made.id, place);
  const list = to.attachments.value;
  const before = list.findIndex((each) => (places.get(each.id) ?? -1) > place);
  to.attachments.value = before < 0 ? [...list, made] : list.toSpliced(before, 0, made);
}

export async function addFiles(to: Draft, files: Iterable<File>): Promise<void> {
  const placed = [...files].map((file) => ({ file, place: nextPlace++ }));
  for (const { file, place } of placed) await during(to, () => addFile(to, file, file.name, place));
}

async function addFile(to: Draft, file: Blob, name: string, place: number): Promise<void> {
  const kind = kindOf({ name, type: file.type });
  if (!kind) {
    notice.value = t("unknownFile", { name });
  } else if (kind === "pdf") {
    const pdf = await openPdf(file, name);
    if (pdf.pages === 1) await addPages({ pdf, draft: to, place }, [1]);
    else choosing.value = [...choosing.value, { pdf, draft: to, place }];
  } else {
    add(to, await attach(file, name || kind, kind), place);
  }
}

export function addUrl(to: Draft, url: string): Promise<void> {
  const place = nextPlace++;
  return during(to, async () => {
    const { blob, name } = await fetchUrl(url);
    await addFile(to, blob, name, place);
  });
}

export function addPages({ pdf, draft: to, place }: Choice, pages: number[]): Promise<void> {
  return during(to, async () => {
    for (const page of pages) add(to, await pdfPage(pdf, page), place);
  });
}

/** Put other bytes into the place of an attachment. */
export function replaceFile(to: Draft, old: Attachment, file: File): Promise<void> {
  return during(to, async () => {
    const named = kindOf(file) ?? kindOf({ name: "", type: sniffed(new Uint8Array(await file.slice(0, 16).arrayBuffer())) });
    if (named !== "image" && named !== "video") {
      notice.value = t("unknownFile", { name: file.name });
      return;
    }
    const made = await attach(file, file.name, named);
    const filled = (each: Attachment): Attachment => (named === each.kind ? { ...made, options: each.options } : made);
    to.attachments.value = to.attachments.value.map((each) => (each.id === old.id ? filled(each) : each));
  });
}

export function change(to: Draft, changed: Attachment): void {
  to.attachments.value = to.attachments.value.map((each) => (each.id === changed.id ? changed : each));
}

export function remove(to: Draft, id: string): void {
  to.attachments.value = to.attachments.value.filter((each) => each.id !== id);
}

/** Move an attachment to another place in the order. */
export function move(to: Draft, id: string, place: number): void {
  const list = to.attachments.value;
  const moved = list.find((each) => each.id === id);
  if (!moved || place < 0 || place >= list.length) return;
  const others = list.filter((each) => each.id !== id);
  to.attachments.value = [...others.slice(0, place), moved, ...others.slice(place)];
}

/** The files of a drop or a paste. */
export function filesOf(data: DataTransfer | null): File[] {
  return [...(data?.files ?? [])];
}
