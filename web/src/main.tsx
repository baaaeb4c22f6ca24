// The page begins: theme, storage, model, then everything is drawn.
import { render } from "preact";
import "temml/dist/Temml-Local.css";
import "./style/base.css";
import "./style/frame.css";
import "./style/turns.css";
import "./style/dialogs.css";
import { get } from "./store/api.ts";
import * as db from "./store/db.ts";
import { keepDraft } from "./store/draft.ts";
import * as state from "./store/state.ts";
import { showTheme } from "./store/theme.ts";
import { language } from "./text/index.ts";
import { App } from "./view/app.tsx";

async function readModel(): Promise<void> {
  const { data } = await get<{ data: { id: string; max_model_len: number }[] }>("v1/models");
  state.model.value = data[0]?.id ?? "";
  state.contextLength.value = data[0]?.max_model_len ?? 0;
}

/** The name of the model, also where the server starts after the page. */
async function untilModel(): Promise<void> {
  for (;;) {
    try {
      return await readModel();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 2000));
    }
  }
}

showTheme();
keepDraft();
document.documentElement.lang = language.value === "zh" ? "zh-Hans" : "en";
const root = document.getElementById("app")!;
root.replaceChildren(); // what stood there while the scripts were read
render(<App />, root);
void state.start().catch(state.report);
void untilModel();
// What streams is stored once more before the page goes, so that the answer can be continued.
addEventListener("pagehide", () => void db.turns.put(...[...state.running.values()].map(({ turn }) => turn)));
