// The shown branch of the conversation; of a long one the last turns first.
import type { JSX } from "preact";
import { useEffect, useLayoutEffect, useRef, useState } from "preact/hooks";
import { plainText } from "../lib/special.ts";
import { branches, group } from "../lib/tree.ts";
import type { Attachment, Turn } from "../lib/types.ts";
import { answerAgain } from "../store/answers.ts";
import * as state from "../store/state.ts";
import { t } from "../text/index.ts";
import { Branches, DeleteButton } from "./branches.tsx";
import { Figures } from "./figures.tsx";
import { CopyButton, IconButton } from "./parts.tsx";
import { AnswerBody, TurnView } from "./turn.tsx";

const STEP = 40; // turns that are drawn at first, and more at each wish
const NEAR = 80; // pixels from the end at which the page follows an answer
const NO_PICTURES: readonly Attachment[] = [];

/** For each turn of a path the pictures of the last question with some. */
function picturesOf(path: readonly Turn[]): Map<string, readonly Attachment[]> {
  const found = new Map<string, readonly Attachment[]>();
  let last = NO_PICTURES;
  for (const turn of path) {
    const images = turn.attachments?.filter((each) => each.kind === "image");
    if (images?.length) last = images;
    found.set(turn.id, last);
  }
  return found;
}

export function Thread(): JSX.Element {
  const path = state.path.value;
  const { id, settings } = state.current.value;
  const [shown, setShown] = useState({ id, count: STEP });
  const [follow, setFollow] = useState(true);
  const box = useRef<HTMLDivElement>(null);
  const count = shown.id === id ? shown.count : STEP;
  const first = Math.max(0, path.length - count);
  const pictures = picturesOf(path);
  useEffect(() => setFollow(true), [id]);
  useLayoutEffect(() => {
    const element = box.current;
    if (element && follow) element.scrollTop = element.scrollHeight;
  });
  // Pictures become larger when they have been read.
  useEffect(() => {
    const element = box.current!;
    const observer = new ResizeObserver(() => { if (follow) element.scrollTop = element.scrollHeight; });
    observer.observe(element.firstElementChild!);
    return () => observer.disconnect();
  }, [follow]);
  const onScroll = (): void => {
    const element = box.current!;
    setFollow(element.scrollHeight - element.scrollTop - element.clientHeight < NEAR);
  };
  return (
    <div class="thread" ref={box} onScroll={onScroll} tabIndex={-1}>
      <div class="column" role="log" aria-live="polite" aria-busy={state.runningCount.value > 0}>
        {first > 0 && <button type="button" class="earlier" onClick={() => { setFollow(false); setShown({ id, count: count + STEP }); }}>{t("showEarlier", { count: first })}</button>}
        {path.slice(first).map((turn, index) => {
          const found = pictures.get(turn.id) ?? NO_PICTURES;
          const last = first + index === path.length - 1;
          if (turn.group) return <Compared key={turn.group} turn={turn} pictures={found} last={last} />;
          const siblings = branches(state.after.value, turn);
          return <TurnView key={turn.id} turn={turn} pictures={turn.role === "assistant" ? found : NO_PICTURES} branch={siblings.findIndex((each) => each.id === turn.id)} branches={siblings.length} last={last} schema={settings.schema.trim()} />;
        })}
      </div>
      {!follow && <IconButton icon="down2" label={t("toEnd")} class="to-end" onClick={() => setFollow(true)} />}
    </div>
  );
}

/** Answers that were asked together, next to each other. */
function Compared({ turn, pictures, last }: { turn: Turn; pictures: readonly Attachment[]; last: boolean }): JSX.Element {
  const answers = group(state.after.value, turn);
  const siblings = branches(state.after.value, turn);
  return (
    <article class="turn compared" aria-label={t("compare")}>
      {answers.map((each) => (
        <section key={each.id} class={`side ${each.id === turn.id ? "chosen" : ""}`} data-turn={each.id} data-state={each.state} aria-label={each.label}>
          <header>
            <b dir="auto">{each.label}</b>
            <CopyButton text={() => plainText(each.text)} />
            {each.id === turn.id ? <span class="hint">{t("goesOnHere")}</span> : <button type="button" class="link" onClick={() => state.showBranch(each)}>{t("goOnHere")}</button>}
          </header>
          <AnswerBody turn={each} pictures={pictures} last={last && each.id === turn.id} />
          <Figures turn={each} />
        </section>
      ))}
      <div class="actions"><Branches turn={turn} count={siblings.length} index={siblings.findIndex((each) => each.id === turn.id)} /><IconButton icon="redo" label={t("regenerate")} onClick={() => answerAgain(turn)} /><DeleteButton turn={turn} /></div>
    </article>
  );
}
