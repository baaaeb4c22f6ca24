// Where questions are written: text, attachments, the way to send and to stop.
import { batch } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { ask, stopAll } from "../store/answers.ts";
import { addFiles, addUrl, comparison, draft, filesOf, target } from "../store/draft.ts";
import * as state from "../store/state.ts";
import { t } from "../text/index.ts";
import { AttachmentStrip } from "./attachments.tsx";
import { Camera } from "./camera.tsx";
import { Dialog, Field, IconButton } from "./parts.tsx";
import type { Turn } from "../lib/types.ts";

const TYPES = "image/*,video/*,application/pdf,.mkv,.heic,.heif";

const COMPOSING = 229; // what Safari gives for the key that ends a composition

/** The last answer whose calls wait for results. */
function openCalls(path: readonly Turn[]): boolean {
  const last = path.at(-1);
  return last?.role === "assistant" && last.state === "done" && (last.calls?.length ?? 0) > 0;
}

function isBusy(): boolean {
  return state.path.value.some((turn) => turn.state === "streaming" || turn.state === "waiting");
}

function isEmpty(): boolean {
  return !draft.text.value.trim() && !draft.attachments.value.length;
}

function sendDraft(): void {
  if (isEmpty() || isBusy() || draft.pending.value) return;
  const text = draft.text.value.trim();
  const attachments = draft.attachments.value;
  batch(() => {
    draft.text.value = "";
    draft.attachments.value = [];
  });
  ask(text, attachments, state.current.value.leaf, comparison.value);
}

export function Composer(): JSX.Element {
  const field = useRef<HTMLTextAreaElement>(null);
  const files = useRef<HTMLInputElement>(null);
  const [asking, setAsking] = useState<"" | "url" | "camera">("");
  const busy = isBusy();
  const empty = isEmpty();
  const compared = comparison.value;
  useEffect(() => {
    const element = field.current!;
    element.style.height = "auto";
    element.style.height = `${Math.min(element.scrollHeight, 260)}px`;
  }, [draft.text.value]);
  useEffect(() => field.current?.focus(), [state.current.value.id]);
  // While the conversation is being read, the draft stays in the field, and is sent after that.
  const send = (): void => {
    const { id } = state.current.value;
    state.onceOpen(() => { if (id === state.current.value.id) sendDraft(); });
  };
  const onKey = (event: KeyboardEvent): void => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== COMPOSING) {
      event.preventDefault();
      send();
    }
    if (event.key === "Escape" && busy) stopAll();
  };
  return (
    <form class="composer" onSubmit={(event) => { event.preventDefault(); send(); }}>
      {compared && (
        <p class="comparing">
          {t("comparing", { names: compared.map((each) => each.label).join(" | ") })}
          <button type="button" class="link" onClick={() => (comparison.value = undefined)}>{t("endComparison")}</button>
        </p>
      )}
      <AttachmentStrip draft={draft} />
      <textarea ref={field} dir="auto" rows={1} value={draft.text.value} placeholder={openCalls(state.path.value) ? t("resultsFirst") : t("placeholder")} aria-label={t("message")} onInput={(event) => (draft.text.value = event.currentTarget.value)} onKeyDown={onKey} />
      <div class="row">
        <IconButton icon="clip" label={t("addFiles")} onClick={() => files.current!.click()} />
        <IconButton icon="camera" label={t("camera")} onClick={() => setAsking("camera")} />
        <IconButton icon="link" label={t("addUrl")} onClick={() => setAsking("url")} />
        <IconButton icon="columns" label={t("compare")} pressed={compared !== undefined} onClick={() => state.onceOpen(() => (state.dialog.value = "compare"))} />
        <ContextMeter />
        {busy ? (
          <button type="button" class="send" aria-label={t("stop")} title={t("stop")} onClick={stopAll}><span class="square" /></button>
        ) : (
          <IconButton icon="send" label={t("send")} class="send" disabled={empty || draft.pending.value > 0} onClick={send} />
        )}
      </div>
      <input ref={files} class="off-screen" type="file" multiple accept={TYPES} aria-label={t("addFiles")} tabIndex={-1} onChange={(event) => { const input = event.currentTarget; void addFiles(draft, input.files ?? []).then(() => (input.value = "")); }} />
      {asking === "url" && <UrlDialog onClose={() => setAsking("")} />}
      {asking === "camera" && <Camera onClose={() => setAsking("")} />}
    </form>
  );
}

/** How full the context was at the last answer. */
function ContextMeter(): JSX.Element {
  const usage = state.path.value.findLast((turn) => turn.usage)?.usage;
  const limit = state.contextLength.value;
  const used = usage ? usage.prompt_tokens + usage.completion_tokens : 0;
  if (!usage || !limit) return <span class="meter" />;
  return <span class="meter hint" title={t("contextHint")}>{t("context", { used, limit })}</span>;
}

function UrlDialog({ onClose }: { onClose: () => void }): JSX.Element {
  const [url, setUrl] = useState("");
  const add = (): void => {
    for (const each of url.split(/\s+/).filter(Boolean)) void addUrl(target.value, each);
    onClose();
  };
  return (
    <Dialog title={t("addUrl")} onClose={onClose} actions={<button type="button" class="primary" disabled={!url.trim()} onClick={add}>{t("add")}</button>}>
      <Field label={t("urlLabel")} hint={t("urlHint")}>
        <textarea rows={3} value={url} autoFocus placeholder="https://" onInput={(event) => setUrl(event.currentTarget.value)} />
      </Field>
    </Dialog>
  );
}

/** Files that are dropped anywhere, or pasted, go to the question that is written. */
export function listenForFiles(setOver: (over: boolean) => void): () => void {
  const isFiles = (event: DragEvent): boolean => event.dataTransfer?.types.includes("Files") ?? false;
  const isUrl = (event: DragEvent): boolean => event.dataTransfer?.types.includes("text/uri-list") ?? false;
  const over = (event: DragEvent): void => { if (isFiles(event) || isUrl(event)) { event.preventDefault(); setOver(true); } };
  const leave = (event: DragEvent): void => { if (!event.relatedTarget) setOver(false); };
  const drop = (event: DragEvent): void => {
    setOver(false);
    const url = event.dataTransfer?.getData("text/uri-list").split(/\s/)[0] ?? "";
    if (isFiles(event)) {
      event.preventDefault();
      void addFiles(target.value, filesOf(event.dataTransfer));
    } else if (/^https?:/i.test(url) && !(event.target instanceof HTMLTextAreaElement)) {
      // A picture of another page; the browser would leave this page for it.
      event.preventDefault();
      void addUrl(target.value, url);
    }
  };
  const paste = (event: ClipboardEvent): void => {
    const found = filesOf(event.clipboardData);
    // Word processors and tables put a picture of the text next to the text.
    if (!found.length || event.clipboardData?.getData("text/plain")) return;
    event.preventDefault();
    void addFiles(target.value, found);
  };
  window.addEventListener("dragover", over);
  window.addEventListener("dragleave", leave);
  window.addEventListener("drop", drop);
  window.addEventListener("paste", paste);
  return () => {
    window.removeEventListener("dragover", over);
    window.removeEventListener("dragleave", leave);
    window.removeEventListener("drop", drop);
    window.removeEventListener("paste", paste);
  };
}
