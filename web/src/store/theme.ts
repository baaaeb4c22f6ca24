// Light, dark, or as the system says.
import { signal } from "@preact/signals";

export type Theme = "auto" | "light" | "dark";
const THEME = "pocketvlm-theme";

export const theme = signal<Theme>((localStorage.getItem(THEME) as Theme | null) ?? "auto");

export function setTheme(chosen: Theme): void {
  theme.value = chosen;
  localStorage.setItem(THEME, chosen);
  showTheme();
}

export function showTheme(): void {
  document.documentElement.dataset["theme"] = theme.value;
}
