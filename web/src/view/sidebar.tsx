// The list of conversations, with search.
import { signal } from "@preact/signals";
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { search } from "../lib/search.ts";
import { plainText } from "../lib/special.ts";
import type { Conversation } from "../lib/types.ts";
import * as db from "../store/db.ts";
import { deleteConversation } from "../store/deletion.ts";
import * as state from "../store/state.ts";
import { importMessages } from "../store/transfer.ts";
import { language, t, type Key } from "../text/index.ts";
import { Icon } from "./icons.tsx";
import { IconButton } from "./parts.tsx";

const DAY = 86_400_000;

/** Whether the list lies over the page, as on phones. */
export const narrow = signal(matchMedia("(max-width: 50rem)").matches);
matchMedia("(max-width: 50rem)").addEventListener("change", (event) => (narrow.value = event.matches));

function ageKey(updated: number): Key {
  const today = new Date().setHours(0, 0, 0, 0);
  if (updated >= today) return "today";
  if (updated >= today - DAY) return "yesterday";
  return updated >= today - 7 * DAY ? "week" : "earlier";
}

export function Sidebar(): JSX.Element {
  const [query, setQuery] = useState("");
  const [found, setFound] = useState<Map<string, string> | undefined>(undefined);
  const all = state.conversations.value;
  useEffect(() => {
    if (!query.trim()) return setFound(undefined);
    let here = true; // a slow search does not overwrite a later one
    const timer = setTimeout(() => {
      void db.turns.all().then((turns) => {
        if (!here) return;
        const titles = all.map(({ id, title }) => ({ id, text: title }));
        setFound(search([...titles, ...turns.map((turn) => ({ id: turn.conversation, text: plainText(turn.text) }))], query));
      }, state.report);
    }, 150);
    return () => { here = false; clearTimeout(timer); };
  }, [query, all]);
  const first = useRef<HTMLButtonElement>(null);
  const isOpen = state.sidebarOpen.value;
  useEffect(() => { if (isOpen) first.current?.focus(); }, [isOpen]);
  const shown = found ? all.filter((each) => found.has(each.id)) : all;
  const groups = Map.groupBy(shown, (each) => ageKey(each.updated));
  const read = async (file: File | undefined): Promise<void> => {
    if (!file) return;
    try {
      const text = await file.text();
      await new Promise<void>((resolve) => state.onceOpen(resolve)); // with the reader's settings
      await importMessages(text);
    } catch (error) {
      state.notice.value = t("importFault", { name: file.name, why: error instanceof Error ? error.message : String(error) });
    }
  };
  return (
    <nav class="sidebar" aria-label={t("conversations")} onKeyDown={(event) => { if (event.key === "Escape") state.sidebarOpen.value = false; }}>
      <div class="brand"><img src="./ui/icon.svg" alt="" /><b>pocketvlm</b><IconButton icon="close" label={t("close")} class="narrow-only" onClick={() => (state.sidebarOpen.value = false)} /></div>
      <button ref={first} type="button" class="new" onClick={() => state.newConversation()}><Icon name="plus" /> {t("newConversation")}</button>
      <label class="search"><Icon name="search" /><span class="off-screen">{t("search")}</span><input type="search" placeholder={t("search")} value={query} onInput={(event) => setQuery(event.currentTarget.value)} /></label>
      <div class="list">
        {[...groups].map(([key, list]) => (
          <section key={key}>
            <h2>{t(key)}</h2>
            <ul>{list.map((each) => <Entry key={each.id} conversation={each} excerpt={found?.get(each.id)} />)}</ul>
          </section>
        ))}
        {!shown.length && <p class="hint">{query ? t("nothingFound") : t("noConversations")}</p>}
      </div>
      <div class="foot">
        <label class="item"><Icon name="open" /> {t("import")}<input class="off-screen" type="file" accept="application/json,.json" onChange={(event) => { const input = event.currentTarget; void read(input.files?.[0]).then(() => (input.value = "")); }} /></label>
        <button type="button" class="item" aria-pressed={state.view.value === "server"} onClick={() => { state.view.value = state.view.value === "server" ? "chat" : "server"; state.sidebarOpen.value = false; }}><Icon name="server" /> {t("server")}</button>
        <button type="button" class="item" onClick={() => state.onceOpen(() => (state.dialog.value = "settings"))}><Icon name="gear" /> {t("settings")}</button>
      </div>
    </nav>
  );
}

function Entry({ conversation, excerpt }: { conversation: Conversation; excerpt: string | undefined }): JSX.Element {
  const [mode, setMode] = useState<"" | "rename" | "delete">("");
  const open = state.current.value.id === conversation.id && state.view.value === "chat";
  const name = conversation.title || t("untitled");
  if (mode === "rename") {
    const save = (title: string): void => { if (title.trim()) state.patchConversation(conversation.id, { title: title.trim() }); setMode(""); };
    return <li><input type="text" class="rename" aria-label={t("rename")} autoFocus defaultValue={conversation.title} onBlur={(event) => save(event.currentTarget.value)} onKeyDown={(event) => { if (event.key === "Enter") save(event.currentTarget.value); if (event.key === "Escape") setMode(""); }} /></li>;
  }
  return (
    <li class={open ? "open" : ""}>
      <button type="button" class="entry" aria-current={open ? "page" : undefined} title={new Date(conversation.updated).toLocaleString(language.value)} onClick={() => void state.openConversation(conversation.id)}>
        <span dir="auto">{name}</span>
        {excerpt && <small dir="auto">{excerpt}</small>}
      </button>
      <span class="entry-actions">
        <IconButton icon="edit" label={t("renameOf", { name })} onClick={() => setMode("rename")} />
        <IconButton icon="trash" label={mode === "delete" ? t("reallyDelete") : t("deleteOf", { name })} class={mode === "delete" ? "danger" : ""} onClick={() => (mode === "delete" ? void deleteConversation(conversation.id).catch(state.report) : setMode("delete"))} />
      </span>
    </li>
  );
}
