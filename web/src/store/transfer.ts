// Conversations leave and enter the page: as messages that `pocketvlm chat` reads, and as one HTML file to share.
import { download } from "../lib/copy.ts";
import { title } from "../lib/format.ts";
import { randomId } from "../lib/ids.ts";
import { readMessages, toMessages, type ImportedMedia, type Source } from "../lib/messages.ts";
import { sharedPage } from "../lib/share.ts";
import type { Attachment, Conversation, Turn } from "../lib/types.ts";
import { attach, fetchUrl, fullData, sniffed } from "./media.ts";
import { defaults } from "./presets.ts";
import * as state from "./state.ts";

function fileName(conversation: Conversation, suffix: string): string {
  const name = conversation.title.replace(/[^\p{L}\p{N} _-]/gu, "").trim().slice(0, 40).trim() || "conversation";
  return `${name}.${suffix}`;
}

/** The shown branch of the open conversation as JSON, with all pictures and videos in it. */
export async function exportMessages(): Promise<void> {
  // The reader may open another conversation while the bytes are read.
  const shown = state.current.value;
  const path = state.path.value;
  const sources = new Map<string, Source>();
  for (const turn of path) for (const each of turn.attachments ?? []) sources.set(each.id, { url: await fullData(each) });
  const messages = toMessages(shown.settings.system, path, (each) => sources.get(each.id)!);
  download(fileName(shown, "json"), `${JSON.stringify(messages, null, 1)}\n`, "application/json");
}

/** The shown branch of the open conversation as one page without scripts. */
export async function share(render: (turn: Turn) => string): Promise<void> {
  const shown = state.current.value;
  const path = state.path.value;
  const pictures = new Map<string, string>();
  for (const turn of path) {
    for (const each of turn.attachments ?? []) if (each.kind === "image") pictures.set(each.id, await fullData(each, each.shown).catch(() => ""));
  }
  const turns = path.map((turn) => ({
    role: turn.role,
    html: render(turn),
    pictures: (turn.attachments ?? []).map((each) => ({ name: each.name, url: pictures.get(each.id) ?? "" })),
  }));
  download(fileName(shown, "html"), sharedPage(shown.title, turns), "text/html");
}

/** A new conversation from a file of messages. */
export async function importMessages(text: string): Promise<void> {
  const { system, turns } = readMessages(text);
  const made = { ...state.fresh({ ...defaults.value, system }), title: "" };
  const read: Turn[] = [];
  let parent: string | null = null;
  const now = Date.now();
  for (const [index, turn] of turns.entries()) {
    const { media, ...rest } = turn;
    const attachments: Attachment[] = [];
    for (const [number, each] of media.entries()) attachments.push(await readMedia(each, number + 1));
    const full: Turn = { ...rest, id: randomId(), conversation: made.id, parent, created: now + index, state: "done" };
    if (attachments.length) full.attachments = attachments;
    read.push(full);
    parent = full.id;
  }
  if (!read.length) throw new Error("there are no messages in it");
  made.title = title(read.find((turn) => turn.text)?.text ?? "");
  made.leaf = parent;
  await state.importConversation(made, read);
}

async function readMedia(media: ImportedMedia, number: number): Promise<Attachment> {
  let blob: Blob;
  let name = `${media.kind} ${number}`;
  if (/^https?:/i.test(media.url)) {
    ({ blob, name } = await fetchUrl(media.url));
  } else {
    blob = decoded(media.url);
  }
  return { ...(await attach(blob, name, media.kind)), options: media.options };
}

/** The bytes of a base64 data URI; the page's policy forbids to fetch it. Its media type is not trusted: the bytes tell it. */
function decoded(uri: string): Blob {
  const match = /^data:[^,]*;base64,(.*)$/s.exec(uri);
  if (!match) throw new Error(`${uri.slice(0, 40)}: give http, https or a data URI in base64`);
  try {
    const text = atob(match[1]!.replace(/\s/g, ""));
    const bytes = Uint8Array.from(text, (character) => character.charCodeAt(0));
    return new Blob([bytes], { type: sniffed(bytes.subarray(0, 16)) });
  } catch {
    throw new Error(`${uri.slice(0, 40)}: this is no base64`);
  }
}
