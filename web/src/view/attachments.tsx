// Attachments as cards: thumbnail, tokens in both modes, order, removal.
import { signal } from "@preact/signals";
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { bytes } from "../lib/format.ts";
import type { Attachment } from "../lib/types.ts";
import { move, remove, type Draft } from "../store/draft.ts";
import { viewsOf } from "../store/media.ts";
import { current } from "../store/state.ts";
import { t } from "../text/index.ts";
import { Icon } from "./icons.tsx";
import { IconButton, StoredImage } from "./parts.tsx";

/** The attachment whose dialog is open; without a draft it can only be looked at. */
export const inspected = signal<{ attachment: Attachment; draft?: Draft } | undefined>(undefined);

export function Thumbnail({ attachment }: { attachment: Attachment }): JSX.Element {
  if (attachment.kind === "video") return <span class="thumb video"><Icon name="video" /></span>;
  return <StoredImage blob={attachment.shown ?? attachment.blob} alt="" class="thumb" />;
}

/** Tokens in 16x and 4x, as the server counts them. */
function Tokens({ attachment }: { attachment: Attachment }): JSX.Element {
  const chosen = attachment.options.downsample_mode;
  const { model } = current.value.settings;
  const said = (["16x", "4x"] as const).filter((mode) => !chosen || mode === chosen).map((mode) => {
    const views = viewsOf(attachment, mode, model);
    return `${mode} ${views === "…" ? "…" : "fault" in views ? "–" : views.tokens}`;
  });
  return <span class="hint" title={t("tokensHint")}>{said.join(" · ")}</span>;
}

export function AttachmentStrip({ draft }: { draft: Draft }): JSX.Element | null {
  const [dragged, setDragged] = useState<string | undefined>(undefined);
  const list = draft.attachments.value;
  if (!list.length && !draft.pending.value) return null;
  return (
    <ol class="strip" aria-label={t("attachments")}>
      {list.map((each, index) => (
        <li
          key={each.id}
          class={`chip ${dragged === each.id ? "dragged" : ""}`}
          draggable
          onDragStart={(event) => { event.dataTransfer?.setData("text/plain", each.id); setDragged(each.id); }}
          onDragEnd={() => setDragged(undefined)}
          onDragOver={(event) => dragged && event.preventDefault()}
          onDrop={(event) => { if (dragged) { event.preventDefault(); event.stopPropagation(); move(draft, dragged, index); } }}
        >
          <button type="button" class="chip-open" onClick={() => (inspected.value = { attachment: each, draft })} aria-label={t("inspect", { name: each.name })}>
            <Thumbnail attachment={each} />
            <span class="chip-text"><span class="chip-name" dir="auto">{each.name}</span><Tokens attachment={each} /></span>
          </button>
          <span class="chip-actions">
            {list.length > 1 && <IconButton icon="left" label={t("moveLeft", { name: each.name })} disabled={index === 0} onClick={() => move(draft, each.id, index - 1)} />}
            {list.length > 1 && <IconButton icon="right" label={t("moveRight", { name: each.name })} disabled={index === list.length - 1} onClick={() => move(draft, each.id, index + 1)} />}
            <IconButton icon="close" label={t("removeFile", { name: each.name })} onClick={() => remove(draft, each.id)} />
          </span>
        </li>
      ))}
      {draft.pending.value > 0 && <li class="chip loading" role="status">{t("reading")}</li>}
    </ol>
  );
}

/** The attachments of a question that was asked. */
export function ReadOnlyStrip({ attachments }: { attachments: readonly Attachment[] }): JSX.Element {
  return (
    <div class={`gallery ${attachments.length === 1 ? "one" : ""}`}>
      {attachments.map((each) => (
        <button type="button" key={each.id} class="shot" aria-label={t("inspect", { name: each.name })} onClick={() => (inspected.value = { attachment: each })}>
          {each.kind === "image" ? <StoredImage blob={each.shown ?? each.blob} alt={each.name} /> : <span class="clip"><Icon name="video" /> <bdi>{each.name}</bdi> <small>{bytes(each.size)}</small></span>}
        </button>
      ))}
    </div>
  );
}
