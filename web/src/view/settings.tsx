// The settings of the open conversation, presets, and those of the page.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { DEMO_TOOLS } from "../lib/demo.ts";
import { readTools } from "../lib/request.ts";
import { schemaFault } from "../lib/schema.ts";
import { PLAIN, type Mode, type Settings } from "../lib/types.ts";
import { setTheme, theme, type Theme } from "../store/theme.ts";
import { deletePreset, presets, savePreset, setDefaults } from "../store/presets.ts";
import * as state from "../store/state.ts";
import { language, setLanguage, t, type Key, type Language } from "../text/index.ts";
import { ModelSelect } from "./models.tsx";
import { NumberField } from "./numbers.tsx";
import { Dialog, Field } from "./parts.tsx";

type NumberName = "temperature" | "top_p" | "top_k" | "min_p" | "repetition_penalty" | "presence_penalty" | "frequency_penalty" | "max_tokens" | "seed";
const NUMBERS: readonly { name: NumberName; min?: number; max?: number; step: number }[] = [
  { name: "temperature", min: 0, max: 100, step: 0.1 },
  { name: "top_p", min: 0.01, max: 1, step: 0.05 },
  { name: "top_k", min: 0, step: 1 },
  { name: "min_p", min: 0, max: 1, step: 0.01 },
  { name: "repetition_penalty", min: 0.01, step: 0.05 },
  { name: "presence_penalty", min: -2, max: 2, step: 0.1 },
  { name: "frequency_penalty", min: -2, max: 2, step: 0.1 },
  { name: "max_tokens", min: 1, step: 1 },
  { name: "seed", min: 0, step: 1 },
];

function toolsFault(text: string): string {
  try {
    readTools(text);
    return "";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

export function SettingsDialog(): JSX.Element {
  const settings = state.current.value.settings;
  const set = state.setSettings;
  // Texts that are no JSON yet stay in the field and are not used.
  const [ownSchema, setSchema] = useState<string | undefined>(undefined);
  const [ownTools, setTools] = useState<string | undefined>(undefined);
  const [stops, setStops] = useState<string | undefined>(undefined); // with the empty lines of one who writes
  const schema = ownSchema ?? settings.schema;
  const tools = ownTools ?? settings.tools;
  const schemaWrong = schemaFault(schema);
  const toolsWrong = toolsFault(tools);
  const writeSchema = (text: string): void => { const wrong = schemaFault(text) !== ""; setSchema(wrong ? text : undefined); if (!wrong) set({ schema: text }); };
  const writeTools = (text: string): void => { const wrong = toolsFault(text) !== ""; setTools(wrong ? text : undefined); if (!wrong) set({ tools: text }); };
  const writeStops = (text: string): void => { setStops(text); set({ stop: text.split("\n").filter(Boolean) }); };
  const load = (chosen: Settings): void => { set(chosen); setSchema(undefined); setTools(undefined); setStops(undefined); };
  return (
    <Dialog title={t("settings")} onClose={() => (state.dialog.value = "")} wide>
      <Presets settings={settings} onLoad={load} />
      <h3>{t("conversation")}</h3>
      <Field label={t("system")}><textarea dir="auto" rows={3} value={settings.system} onInput={(event) => set({ system: event.currentTarget.value })} /></Field>
      <div class="grid">
        {(state.adapters.value.length > 0 || settings.model) && <Field label={t("answers")}><ModelSelect value={settings.model} onValue={(model) => set({ model })} /></Field>}
        <Field label={t("mode")} hint={t("modeHint")}>
          <select value={settings.mode} onChange={(event) => set({ mode: event.currentTarget.value as "" | Mode })}>
            <option value="">{t("detailAuto")}</option><option value="16x">{t("detailLow")}</option><option value="4x">{t("detailHigh")}</option>
          </select>
        </Field>
        <label class="check"><input type="checkbox" checked={settings.thinking} onChange={(event) => set({ thinking: event.currentTarget.checked })} /> {t("think")}</label>
      </div>
      <details open>
        <summary>{t("sampling")}</summary>
        <div class="grid">
          {NUMBERS.map(({ name, ...range }) => <NumberField key={name} label={t(`option.${name}` as Key)} {...range} value={settings[name]} onValue={(value) => set({ [name]: value })} />)}
        </div>
        <Field label={t("stopTexts")} hint={t("stopHint")}><textarea rows={2} value={stops ?? settings.stop.join("\n")} onInput={(event) => writeStops(event.currentTarget.value)} onBlur={() => setStops(undefined)} /></Field>
      </details>
      <details open={schema !== ""}>
        <summary>{t("schema")}</summary>
        <Field label={t("schemaLabel")} hint={t("schemaHint")}><textarea class="code" rows={6} spellcheck={false} value={schema} onInput={(event) => writeSchema(event.currentTarget.value)} /></Field>
        {schemaWrong && <p class="problem small" role="alert">{t("notUsed")} {schemaWrong}</p>}
      </details>
      <details open={tools !== ""}>
        <summary>{t("tools")}</summary>
        <Field label={t("toolsLabel")} hint={t("toolsHint")}><textarea class="code" rows={6} spellcheck={false} value={tools} onInput={(event) => writeTools(event.currentTarget.value)} /></Field>
        {toolsWrong && <p class="problem small" role="alert">{t("notUsed")} {toolsWrong}</p>}
        <button type="button" onClick={() => writeTools(JSON.stringify(DEMO_TOOLS, null, 1))}>{t("demoTools")}</button>
      </details>
      <PageSettings />
    </Dialog>
  );
}

function Presets({ settings, onLoad }: { settings: Settings; onLoad: (settings: Settings) => void }): JSX.Element {
  const [name, setName] = useState("");
  const list = presets.value;
  const save = (): void => {
    savePreset({ name: name.trim(), settings });
    setName("");
  };
  return (
    <section class="presets" aria-label={t("presets")}>
      <h3>{t("presets")}</h3>
      <div class="row wrap">
        <button type="button" onClick={() => onLoad(PLAIN)}>{t("standard")}</button>
        {list.map((each) => (
          <span key={each.name} class="preset"><button type="button" onClick={() => onLoad({ ...PLAIN, ...each.settings })}>{each.name}</button><button type="button" aria-label={t("deleteOf", { name: each.name })} onClick={() => deletePreset(each.name)}>×</button></span>
        ))}
      </div>
      <div class="row wrap">
        <input type="text" aria-label={t("presetName")} placeholder={t("presetName")} value={name} onInput={(event) => setName(event.currentTarget.value)} />
        <button type="button" disabled={!name.trim()} onClick={save}>{t("savePreset")}</button>
        <button type="button" onClick={() => { setDefaults(settings); state.notice.value = t("defaultsSaved"); }}>{t("makeDefault")}</button>
      </div>
    </section>
  );
}

function PageSettings(): JSX.Element {
  return (
    <section>
      <h3>{t("page")}</h3>
      <div class="grid">
        <Field label={t("theme")}>
          <select value={theme.value} onChange={(event) => setTheme(event.currentTarget.value as Theme)}>
            <option value="auto">{t("themeAuto")}</option><option value="light">{t("themeLight")}</option><option value="dark">{t("themeDark")}</option>
          </select>
        </Field>
        <Field label={t("language")}>
          <select value={language.value} onChange={(event) => setLanguage(event.currentTarget.value as Language)}>
            <option value="en">English</option><option value="zh">中文</option>
          </select>
        </Field>
      </div>
      <p class="hint">{t("storedHere")} <a href="./ui/licenses.txt" target="_blank" rel="noopener">{t("licenses")}</a></p>
    </section>
  );
}
