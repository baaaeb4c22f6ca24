// The whole page: list of conversations, the open one or the server, dialogs.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { away } from "../store/api.ts";
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
import { IconButton } from "./parts.tsx";
import { ServerPage } from "./server.tsx";
import { SettingsDialog } from "./settings.tsx";
import { sharedMarkup } from "./shared.ts";
import { Sidebar } from "./sidebar.tsx";
import { Thread } from "./thread.tsx";

const EXAMPLES = ["example.describe", "example.text", "example.count", "example.table"] as const;

export function App(): JSX.Element {
  const [over, setOver] = useState(false);
  useEffect(() => listenForFiles(setOver), []);
  const open = inspected.value;
  const chat = state.view.value === "chat";
  return (
    <div class={`app ${state.sidebarOpen.value ? "with-sidebar" : ""}`}>
      <Sidebar />
      <div class="shade" onClick={() => (state.sidebarOpen.value = false)} />
      <div class="page">
        <TopBar chat={chat} />
        {away.value && <p class="banner" role="status">{t("serverAway")}</p>}
        {chat ? (
          <main class="chat">
            {state.path.value.length ? <Thread /> : <Welcome />}
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
      <h1>{chat ? state.current.value.title || "pocketvlm" : "pocketvlm"}</h1>
      <span class="model-name">{state.model.value}</span>
      {any && <IconButton icon="save" label={t("export")} onClick={guarded(exportMessages)} />}
      {any && <IconButton icon="share" label={t("share")} onClick={guarded(() => share(sharedMarkup))} />}
      <IconButton icon="plus" label={t("newConversation")} class="narrow-only" onClick={() => state.newConversation()} />
      {chat && <IconButton icon="gear" label={t("settings")} onClick={() => (state.dialog.value = "settings")} />}
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
        {EXAMPLES.map((key) => <button type="button" key={key} class="card" onClick={() => { draft.text.value = t(key); document.querySelector<HTMLTextAreaElement>(".composer textarea")?.focus(); }}>{t(key)}</button>)}
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
