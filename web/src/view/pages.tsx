// Choosing pages of a PDF file.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { readPages } from "../lib/pages.ts";
import { addPages, choosing } from "../store/draft.ts";
import { t } from "../text/index.ts";
import { Dialog, Field } from "./parts.tsx";

const FIRST = 8; // as `pocketvlm chat` takes

export function Pages(): JSX.Element | null {
  const open = choosing.value[0];
  const [text, setText] = useState("");
  if (!open) return null;
  const { pdf } = open;
  const given = text || (pdf.pages > FIRST ? `1-${FIRST}` : `1-${pdf.pages}`);
  const pages = readPages(given, pdf.pages);
  const close = (): void => { setText(""); choosing.value = choosing.value.slice(1); };
  const add = (): void => {
    if (!pages) return;
    close();
    void addPages(open, pages);
  };
  return (
    <Dialog key={pdf.id} title={pdf.name} onClose={close} actions={<button type="button" class="primary" disabled={!pages} onClick={add}>{t("addPages", { count: pages?.length ?? 0 })}</button>}>
      <Field label={t("pages", { count: pdf.pages })} hint={t("pagesHint")}>
        <input type="text" value={given} autoFocus onInput={(event) => setText(event.currentTarget.value)} onKeyDown={(event) => event.key === "Enter" && add()} />
      </Field>
      {!pages && <p class="problem small" role="alert">{t("pagesFault", { count: pdf.pages })}</p>}
    </Dialog>
  );
}
