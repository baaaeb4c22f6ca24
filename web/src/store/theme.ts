// Light, dark, or as the system says.
import { signal } from "@preact/signals";
import { local } from "../lib/storage.ts";

export type Theme = "auto" | "light" | "dark";
const THEME = "pocketvlm-theme";

export const theme = signal<Theme>((local.get(THEME) as Theme | null) ?? "auto");

export function setTheme(chosen: Theme): void {
  theme.value = chosen;
  local.set(THEME, chosen);
  showTheme();
}

export function showTheme(): void {
  document.documentElement.dataset["theme"] = theme.value;
}
