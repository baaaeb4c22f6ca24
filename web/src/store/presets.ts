// Named settings, and those of new conversations.
import { signal } from "@preact/signals";
import { PLAIN, type Preset, type Settings } from "../lib/types.ts";
import * as db from "./db.ts";
import { report } from "./notice.ts";
import { tell } from "./tabs.ts";

export const presets = signal<Preset[]>([]);
/** The settings of new conversations. */
export const defaults = signal<Settings>(PLAIN);
// What was changed while the page reads the old ones.
const changed = new Set<string>();
let areDefaultsChanged = false;

/** Read presets and defaults; what the reader has changed meanwhile stays. */
export async function readPresets(): Promise<void> {
  const [saved, chosen] = await Promise.all([db.presets.all(), db.values.get<Settings>("defaults")]);
  presets.value = [...saved.filter(({ name }) => !changed.has(name)), ...presets.value];
  if (chosen && !areDefaultsChanged) defaults.value = { ...PLAIN, ...chosen };
}

export function showPreset(name: string, made?: Preset): void {
  changed.add(name);
  const others = presets.value.filter((each) => each.name !== name);
  presets.value = made ? [...others, made] : others;
}

export function showDefaults(settings: Settings): void {
  areDefaultsChanged = true;
  defaults.value = settings;
}

export function savePreset(made: Preset): void {
  showPreset(made.name, made);
  void db.presets.put(made).catch(report);
  tell({ kind: "preset", name: made.name, made });
}

export function deletePreset(name: string): void {
  showPreset(name);
  void db.presets.delete(name).catch(report);
  tell({ kind: "preset", name });
}

export function setDefaults(settings: Settings): void {
  showDefaults(settings);
  void db.values.put("defaults", settings).catch(report);
  tell({ kind: "defaults", settings });
}
