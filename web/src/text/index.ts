// The page's sentences in the reader's language.
import { signal } from "@preact/signals";
import { local } from "../lib/storage.ts";
import { en } from "./en.ts";
import { zh } from "./zh.ts";

export type Key = keyof typeof en;
export type Language = "en" | "zh";

const LANGUAGE = "pocketvlm-language";

function preferred(): Language {
  const saved = local.get(LANGUAGE);
  if (saved === "en" || saved === "zh") return saved;
  return navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
}

export const language = signal<Language>(preferred());

export function setLanguage(chosen: Language): void {
  local.set(LANGUAGE, chosen);
  language.value = chosen;
  document.documentElement.lang = chosen === "zh" ? "zh-Hans" : "en";
}

/** The sentence under a key, with `{name}` replaced by values. */
export function t(key: Key, values: Record<string, string | number> = {}): string {
  const text: string = (language.value === "zh" ? zh : en)[key];
  return text.replace(/\{(\w+)\}/g, (_, name: string) => String(values[name] ?? ""));
}

/** The sentence under a key that comes from data; the key itself where there is none. */
export function told(key: string): string {
  return Object.hasOwn(en, key) ? t(key as Key) : key;
}
