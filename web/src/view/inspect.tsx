// What the model sees of an attachment: overview and slices, tokens in both modes, frames of a video; and its options.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { seconds } from "../lib/format.ts";
import type { Attachment, MediaOptions, Mode } from "../lib/types.ts";
import { gridLines, viewCount, type Views } from "../lib/views.ts";
import { change, replaceFile, type Draft } from "../store/draft.ts";
import { objectUrl, viewsOf } from "../store/media.ts";
import { current } from "../store/state.ts";
import { t } from "../text/index.ts";
import { inspected } from "./attachments.tsx";
import { Strip } from "./frames.tsx";
import { NumberField } from "./numbers.tsx";
import { Dialog, Field, StoredImage } from "./parts.tsx";

const MODES: readonly Mode[] = ["16x", "4x"];

export function Inspect({ attachment: given, draft }: { attachment: Attachment; draft?: Draft }): JSX.Element {
  const attachment = draft?.attachments.value.find((each) => each.id === given.id) ?? given;
  const [mode, setMode] = useState<Mode>(attachment.options.downsample_mode ?? "16x");
  const { model } = current.value.settings;
  const views = viewsOf(attachment, mode, model);
  const close = (): void => { inspected.value = undefined; };
  const set = (options: MediaOptions): void => {
    if (draft) change(draft, { ...attachment, options: cleaned({ ...attachment.options, ...options }) });
  };
  const replace = (file: File | undefined): void => {
    if (file && draft) void replaceFile(draft, attachment, file).then(close);
  };
  return (
    <Dialog title={attachment.name} onClose={close} wide>
      <p class="hint">{t("seesHint")}</p>
      <div class="modes" role="group" aria-label={t("mode")}>
        {MODES.map((each) => <ModeCard key={each} mode={each} views={viewsOf(attachment, each, model)} chosen={each === mode} onChoose={() => setMode(each)} />)}
      </div>
      {views === "…" ? <p class="hint" role="status">{t("counting")}</p> : "fault" in views ? <p class="problem" role="alert">{views.fault}</p> : attachment.kind === "image" ? <ImageSeen attachment={attachment} views={views} /> : "pictures" in views ? <Strip attachment={attachment} views={views} /> : null}
      {attachment.kind === "video" && <Player attachment={attachment} />}
      {draft && (
        <fieldset class="grid">
          <legend>{t("options")}</legend>
          <Field label={t("detail")}>
            <select value={attachment.options.downsample_mode ?? ""} onChange={(event) => { const value = event.currentTarget.value as "" | Mode; set({ downsample_mode: value || undefined }); if (value) setMode(value); }}>
              <option value="">{t("detailAuto")}</option>
              <option value="16x">{t("detailLow")}</option>
              <option value="4x">{t("detailHigh")}</option>
            </select>
          </Field>
          <NumberField label={t("slices")} hint={t("slicesHint")} min={1} max={10000} step={1} value={attachment.options.max_slice_nums} onValue={(max_slice_nums) => set({ max_slice_nums })} />
          {attachment.kind === "image" && (
            <label class="check"><input type="checkbox" checked={attachment.options.slice_mode !== false} onChange={(event) => set({ slice_mode: event.currentTarget.checked ? undefined : false })} /> {t("cut")}</label>
          )}
          {attachment.kind === "video" && (
            <>
              <NumberField label={t("start")} min={0} step={0.1} value={attachment.options.start} onValue={(start) => set({ start })} />
              <NumberField label={t("end")} min={0} step={0.1} value={attachment.options.end} onValue={(end) => set({ end })} />
              <NumberField label={t("fps")} min={0.0001} max={1000} step={0.1} value={attachment.options.fps} onValue={(fps) => set({ fps })} />
              <NumberField label={t("maxFrames")} min={1} max={100000} step={1} value={attachment.options.max_num_frames} onValue={(max_num_frames) => set({ max_num_frames })} />
              <NumberField label={t("stack")} hint={t("stackHint")} min={1} max={64} step={1} value={attachment.options.stack_frames} onValue={(stack_frames) => set({ stack_frames })} />
            </>
          )}
          <label class="button">{t("replace")}<input type="file" class="off-screen" accept="image/*,video/*" onChange={(event) => replace(event.currentTarget.files?.[0])} /></label>
        </fieldset>
      )}
    </Dialog>
  );
}

/** Options without those that were emptied. */
function cleaned(options: MediaOptions): MediaOptions {
  return Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));
}

function ModeCard(props: { mode: Mode; views: Views | "…" | { fault: string }; chosen: boolean; onChoose: () => void }): JSX.Element {
  const { mode, views, chosen, onChoose } = props;
  const known = views !== "…" && !("fault" in views) ? views : undefined;
  return (
    <button type="button" class="card mode" aria-pressed={chosen} onClick={onChoose}>
      <b>{mode}</b>
      <span class="big">{known ? known.tokens : views === "…" ? "…" : "–"}</span>
      <span class="hint">{t("tokens")}{known ? ` · ${t("viewCount", { count: viewCount(known) })}` : ""}</span>
    </button>
  );
}

function ImageSeen({ attachment, views }: { attachment: Attachment; views: Views }): JSX.Element {
  const blob = attachment.shown ?? attachment.blob;
  const { rows, columns } = gridLines(views.grid);
  const drawn = [...rows.map((y) => `M0 ${y}H100`), ...columns.map((x) => `M${x} 0V100`)].join("");
  return (
    <div class="seen">
      <figure class="overview">
        <StoredImage blob={blob} alt={t("overview")} />
        <figcaption>{t("overview")} {views.overview.join("×")}</figcaption>
      </figure>
      {views.grid && (
        <figure class="slices">
          <div class="canvas">
            <StoredImage blob={blob} alt={t("sliceGrid")} />
            <svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">
              <path class="edge" d={drawn} />
              <path d={drawn} />
            </svg>
          </div>
          <figcaption>{t("gridOf", { rows: views.grid[0], columns: views.grid[1], size: views.slice?.join("×") ?? "" })}</figcaption>
        </figure>
      )}
      <p class="hint">{t("pixels", { width: views.width, height: views.height })}</p>
    </div>
  );
}

function Player({ attachment }: { attachment: Attachment }): JSX.Element | null {
  const [url, setUrl] = useState("");
  const [length, setLength] = useState<number | undefined>(undefined);
  useEffect(() => {
    let here = true;
    void objectUrl(attachment.blob).then((found) => here && setUrl(found));
    return () => { here = false; };
  }, [attachment.blob]);
  if (!url) return null;
  return (
    <figure class="player">
      <video src={url} controls muted playsInline preload="metadata" onLoadedMetadata={(event) => setLength(event.currentTarget.duration)} />
      {length !== undefined && Number.isFinite(length) && <figcaption>{seconds(length)}</figcaption>}
    </figure>
  );
}
