// The whole page: list of conversations, the open one or the server, dialogs.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { away, untilReachable } from "../store/api.ts";
import { lasting } from "../store/db.ts";
import { draft } from "../store/draft.ts";
import * as state from "../store/state.ts";
import { exportMessages, share } from "../store/transfer.ts";
import { t } from "../text/index.ts";
import { inspected } from "./attachments.tsx";
import { CompareDialog } from "./compare.tsx";
import { Composer, listenForFiles } from "./composer.tsx";
import { Inspect } from "./inspect.tsx";
import { KeyDialog } from "./key.tsx";
import { Pages } from "./pages.tsx";
import { ModelSelect } from "./models.tsx";
import { Guard, IconButton } from "./parts.tsx";
import { ServerPage } from "./server.tsx";
import { SettingsDialog } from "./settings.tsx";
import { sharedMarkup } from "./shared.ts";
import { narrow, Sidebar } from "./sidebar.tsx";
import { Thread } from "./thread.tsx";

const EXAMPLES = ["example.describe", "example.text", "example.count", "example.table"] as const;

export function App(): JSX.Element {
  const [over, setOver] = useState(false);
  useEffect(() => listenForFiles(setOver), []);
  const isAway = away.value;
  // Where nothing waits for the server, this finds out that it is back.
  useEffect(() => {
    if (!isAway) return;
    const ended = new AbortController();
    untilReachable(ended.signal).catch(() => undefined);
    return () => ended.abort();
  }, [isAway]);
  const open = inspected.value;
  const chat = state.view.value === "chat";
  return (
    <div class={`app ${state.sidebarOpen.value ? "with-sidebar" : ""}`}>
      <Sidebar />
      <div class="shade" onClick={() => (state.sidebarOpen.value = false)} />
      <div class="page" inert={narrow.value && state.sidebarOpen.value}>
        <TopBar chat={chat} />
        {isAway && <p class="banner" role="status">{t("serverAway")}</p>}
        {!lasting.value && <p class="banner" role="status">{t("notStored")}</p>}
        {chat ? (
          <main class="chat">
            <Guard key={state.current.value.id}>{state.path.value.length ? <Thread /> : state.loading.value ? <div class="thread" /> : <Welcome />}</Guard>
            <Composer />
          </main>
        ) : (
          <ServerPage />
        )}
      </div>
      {over && <div class="drop-here"><p>{t("dropHere")}</p></div>}
      {open && <Inspect key={open.attachment.id} {...open} />}
      <Pages />
      {state.dialog.value === "settings" && <SettingsDialog />}
      {state.dialog.value === "compare" && <CompareDialog />}
      <KeyDialog />
      <Notice />
    </div>
  );
}

function TopBar({ chat }: { chat: boolean }): JSX.Element {
  const any = chat && state.path.value.length > 0;
  const guarded = (work: () => Promise<void>) => (): void => void work().catch(state.report);
  return (
    <header class="top">
      <IconButton icon="menu" label={t("conversations")} class="narrow-only" onClick={() => (state.sidebarOpen.value = true)} />
      <h1 dir="auto">{chat ? state.current.value.title || "pocketvlm" : "pocketvlm"}</h1>
      {chat && state.adapters.value.length > 0 ? <ModelSelect class="model-name" label={t("model")} value={state.current.value.settings.model} onValue={(model) => state.setSettings({ model })} /> : <span class="model-name">{state.model.value}</span>}
      {any && <IconButton icon="save" label={t("export")} onClick={guarded(exportMessages)} />}
      {any && <IconButton icon="share" label={t("share")} onClick={guarded(() => share(sharedMarkup))} />}
      <IconButton icon="plus" label={t("newConversation")} class="narrow-only" onClick={() => state.newConversation()} />
      {chat && <IconButton icon="gear" label={t("settings")} onClick={() => state.onceOpen(() => (state.dialog.value = "settings"))} />}
    </header>
  );
}

function Welcome(): JSX.Element {
  return (
    <div class="welcome">
      <img src="./ui/icon.svg" alt="" />
      <h2>{t("welcome")}</h2>
      <p>{t("welcomeHint")}</p>
      <div class="examples">
        {EXAMPLES.map((key) => <button type="button" key={key} class="card" onClick={() => { draft.text.value = [draft.text.value.trim(), t(key)].filter(Boolean).join("\n"); document.querySelector<HTMLTextAreaElement>(".composer textarea")?.focus(); }}>{t(key)}</button>)}
      </div>
    </div>
  );
}

function Notice(): JSX.Element | null {
  const text = state.notice.value;
  useEffect(() => {
    if (!text) return;
    const timer = setTimeout(() => (state.notice.value = ""), 8000);
    return () => clearTimeout(timer);
  }, [text]);
  return <div class="notice" role="alert" hidden={!text}>{text}{text && <IconButton icon="close" label={t("close")} onClick={() => (state.notice.value = "")} />}</div>;
}
