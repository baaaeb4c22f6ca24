// Choosing what a question is compared between: 16x and 4x, or two sets of settings.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { PLAIN, type Mode, type Settings } from "../lib/types.ts";
import { comparison } from "../store/draft.ts";
import { presets } from "../store/presets.ts";
import * as state from "../store/state.ts";
import { t } from "../text/index.ts";
import { ModelSelect } from "./models.tsx";
import { NumberField } from "./numbers.tsx";
import { Dialog, Field } from "./parts.tsx";

interface Side {
  base: string;
  settings: Settings;
}

/** A name that tells a side from the other one. */
function labelOf(side: Side, other: Side): string {
  const { settings: mine } = side;
  const { settings: theirs } = other;
  const parts = [side.base !== other.base ? side.base || t("thisConversation") : ""];
  if (mine.model !== theirs.model) parts.push(mine.model || state.model.value);
  if (mine.mode !== theirs.mode) parts.push(mine.mode || t("detailAuto"));
  if (mine.thinking !== theirs.thinking) parts.push(mine.thinking ? t("think") : t("noThinking"));
  if (mine.temperature !== theirs.temperature) parts.push(`T ${mine.temperature ?? t("default")}`);
  return parts.filter(Boolean).join(", ");
}

export function CompareDialog(): JSX.Element {
  const own = state.current.value.settings;
  const [left, setLeft] = useState<Side>({ base: "", settings: { ...own, mode: "16x" } });
  const [right, setRight] = useState<Side>({ base: "", settings: { ...own, mode: "4x" } });
  const adapters = state.adapters.value;
  const differ = (what: string): void => {
    const byAdapter = what === "adapter";
    setLeft({ base: "", settings: { ...own, ...(byAdapter ? { model: "" } : { mode: "16x" }) } });
    setRight({ base: "", settings: { ...own, ...(byAdapter ? { model: own.model || adapters[0]! } : { mode: "4x" }) } });
  };
  const close = (): void => { state.dialog.value = ""; };
  const begin = (): void => {
    const names = [labelOf(left, right) || "A", labelOf(right, left) || "B"];
    comparison.value = [left, right].map((side, index) => ({ label: names[index]!, settings: side.settings }));
    close();
  };
  return (
    <Dialog title={t("compare")} onClose={close} actions={<button type="button" class="primary" onClick={begin}>{t("startComparison")}</button>} wide>
      <p class="hint">{t("compareHint")}</p>
      {adapters.length > 0 && (
        <Field label={t("compareWhat")}>
          <select onChange={(event) => differ(event.currentTarget.value)}><option value="detail">{t("compareDetail")}</option><option value="adapter">{t("compareAdapter")}</option></select>
        </Field>
      )}
      <div class="two">
        <SideFields title="A" side={left} onSide={setLeft} />
        <SideFields title="B" side={right} onSide={setRight} />
      </div>
    </Dialog>
  );
}

function SideFields({ title, side, onSide }: { title: string; side: Side; onSide: (side: Side) => void }): JSX.Element {
  const set = (change: Partial<Settings>): void => onSide({ ...side, settings: { ...side.settings, ...change } });
  const choose = (base: string): void => {
    const found = presets.value.find((each) => each.name === base)?.settings ?? state.current.value.settings;
    onSide({ base, settings: { ...PLAIN, ...found, mode: side.settings.mode, model: side.settings.model } });
  };
  return (
    <fieldset>
      <legend>{title}</legend>
      <Field label={t("settings")}>
        <select value={side.base} onChange={(event) => choose(event.currentTarget.value)}>
          <option value="">{t("thisConversation")}</option>
          {presets.value.map((each) => <option key={each.name} value={each.name}>{each.name}</option>)}
        </select>
      </Field>
      {state.adapters.value.length > 0 && <Field label={t("answers")}><ModelSelect value={side.settings.model} onValue={(model) => set({ model })} /></Field>}
      <Field label={t("mode")}>
        <select value={side.settings.mode} onChange={(event) => set({ mode: event.currentTarget.value as "" | Mode })}>
          <option value="">{t("detailAuto")}</option><option value="16x">{t("detailLow")}</option><option value="4x">{t("detailHigh")}</option>
        </select>
      </Field>
      <NumberField label={t("option.temperature")} min={0} max={100} step={0.1} value={side.settings.temperature} onValue={(temperature) => set({ temperature })} />
      <label class="check"><input type="checkbox" checked={side.settings.thinking} onChange={(event) => set({ thinking: event.currentTarget.checked })} /> {t("think")}</label>
    </fieldset>
  );
}
