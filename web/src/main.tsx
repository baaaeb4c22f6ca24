// The page begins: theme, storage, model, then everything is drawn.
import { render } from "preact";
import "temml/dist/Temml-Local.css";
import "./style/base.css";
import "./style/frame.css";
import "./style/turns.css";
import "./style/dialogs.css";
import { keepDraft, leaveDraft } from "./store/draft.ts";
import * as state from "./store/state.ts";
import { showTheme } from "./store/theme.ts";
import { language } from "./text/index.ts";
import { App } from "./view/app.tsx";

/** The names of the model and its adapters, also where the server starts after the page. */
async function untilModel(): Promise<void> {
  for (;;) {
    try {
      return await state.readModels();
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
void state.start();
void untilModel();
addEventListener("pagehide", () => {
  state.leave();
  leaveDraft();
});
// A page that the browser has stopped and shows again has missed what other tabs said, and its answers were cut.
addEventListener("pageshow", (event) => { if (event.persisted) location.reload(); });
