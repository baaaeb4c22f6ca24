// The dialog that asks for an API key; the key stays until the tab is closed.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { giveKey, keyNeeded } from "../store/api.ts";
import { t } from "../text/index.ts";
import { Dialog, Field } from "./parts.tsx";

export function KeyDialog(): JSX.Element | null {
  const [key, setKey] = useState("");
  if (!keyNeeded.value) return null;
  const give = (): void => { if (key.trim()) { giveKey(key.trim()); setKey(""); } };
  return (
    <Dialog title={t("key")} actions={<button type="button" class="primary" disabled={!key.trim()} onClick={give}>{t("unlock")}</button>}>
      {keyNeeded.value === "wrong" && <p class="problem small" role="alert">{t("keyWrong")}</p>}
      <Field label={t("keyLabel")} hint={t("keyHint")}>
        <input type="password" autoComplete="off" autoFocus value={key} onInput={(event) => setKey(event.currentTarget.value)} onKeyDown={(event) => event.key === "Enter" && give()} />
      </Field>
    </Dialog>
  );
}
