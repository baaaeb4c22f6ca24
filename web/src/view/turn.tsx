// One turn of the conversation with its actions.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { count } from "../lib/format.ts";
import { answerFault } from "../lib/schema.ts";
import { plainText, readRegions } from "../lib/special.ts";
import type { Attachment, Turn } from "../lib/types.ts";
import { answerAgain, ask, continueAnswer, replaceResult, stop } from "../store/answers.ts";
import { comparison, draft, newDraft, target, type Draft } from "../store/draft.ts";
import * as state from "../store/state.ts";
import { randomId } from "../lib/ids.ts";
import { language, t, told } from "../text/index.ts";
import { AttachmentStrip, ReadOnlyStrip } from "./attachments.tsx";
import { Branches, DeleteButton } from "./branches.tsx";
import { Calls } from "./calls.tsx";
import { Figures } from "./figures.tsx";
import { Icon } from "./icons.tsx";
import { Markdown } from "./markdown.tsx";
import { CopyButton, Guard, IconButton, Memo } from "./parts.tsx";
import { Regions } from "./regions.tsx";

interface TurnProps {
  turn: Turn;
  /** The pictures that boxes of an answer may belong to. */
  pictures: readonly Attachment[];
  branch: number;
  branches: number;
  last: boolean;
  schema: string;
}

/** Draws a turn again only when the turn or its place among the branches changes. */
export class TurnView extends Memo<TurnProps> {
  override render(): JSX.Element {
    const { turn } = this.props;
    return (
      <article class={`turn ${turn.role}`} data-turn={turn.id} data-state={turn.state} aria-label={told(`role.${turn.role}`)}>
        <Guard>{turn.role === "user" || turn.role === "system" ? <Question {...this.props} /> : turn.role === "tool" ? <Result {...this.props} /> : <Answer {...this.props} />}</Guard>
      </article>
    );
  }
}

function Question(props: TurnProps): JSX.Element {
  const { turn } = props;
  const [editing, edit] = useState<Draft | undefined>(undefined);
  // Files go to the composer again, also where the question leaves the page while it is edited.
  useEffect(() => () => { if (target.peek() === editing) target.value = draft; }, [editing]);
  if (editing) {
    const close = (): void => edit(undefined);
    const isEmpty = !editing.text.value.trim() && !editing.attachments.value.length;
    const save = (): void => {
      close();
      ask(editing.text.value, editing.attachments.value, turn.parent, comparison.value);
    };
    return (
      <div class="bubble editing">
        <AttachmentStrip draft={editing} />
        <textarea dir="auto" aria-label={t("editQuestion")} rows={4} value={editing.text.value} autoFocus onInput={(event) => (editing.text.value = event.currentTarget.value)} onKeyDown={(event) => event.key === "Escape" && close()} />
        <div class="row end">
          <button type="button" onClick={close}>{t("cancel")}</button>
          <button type="button" class="primary" disabled={isEmpty || editing.pending.value > 0} onClick={save}>{t("askAgain")}</button>
        </div>
      </div>
    );
  }
  const begin = (): void => {
    const made = newDraft(turn.text, turn.attachments ?? []);
    target.value = made;
    edit(made);
  };
  return (
    <>
      <div class="bubble">
        {turn.attachments && <ReadOnlyStrip attachments={turn.attachments} />}
        {turn.text && <Plain text={turn.text} />}
      </div>
      <Actions {...props} {...(turn.role === "user" ? { onEdit: begin } : {})} />
    </>
  );
}

const LONG = 20_000; // characters of a question that are drawn at once

function Plain({ text }: { text: string }): JSX.Element {
  const [all, showAll] = useState(false);
  return (
    <>
      <p class="plain" dir="auto">{all ? text : text.slice(0, LONG)}</p>
      {!all && text.length > LONG && <button type="button" class="link" onClick={() => showAll(true)}>{t("showWhole", { count: count(text.length, language.value) })}</button>}
    </>
  );
}

function Result(props: TurnProps): JSX.Element {
  const { turn } = props;
  const [editing, edit] = useState<string | undefined>(undefined);
  if (editing !== undefined) {
    const save = (): void => { edit(undefined); replaceResult(turn, editing); };
    return (
      <div class="editing">
        <textarea aria-label={t("editResult")} rows={3} value={editing} autoFocus onInput={(event) => edit(event.currentTarget.value)} />
        <div class="row end">
          <button type="button" onClick={() => edit(undefined)}>{t("cancel")}</button>
          <button type="button" class="primary" onClick={save}>{t("sendResults")}</button>
        </div>
      </div>
    );
  }
  return (
    <>
      <section class="card result" aria-label={t("role.tool")}>
        <header><Icon name="tool" /> {t("result")}</header>
        <pre tabIndex={0}>{turn.text}</pre>
      </section>
      <Actions {...props} onEdit={() => edit(turn.text)} />
    </>
  );
}

function Answer(props: TurnProps): JSX.Element {
  const { turn, schema } = props;
  const [editing, edit] = useState<string | undefined>(undefined);
  if (editing !== undefined) {
    const save = (): void => {
      const { usage: _, timings: __, group: ___, label: ____, problem: _____, settings: ______, ...rest } = turn;
      const made: Turn = { ...rest, id: randomId(), created: Date.now(), text: editing, state: "done", finish: "edited" };
      state.putTurns([made]);
      state.patchConversation(turn.conversation, { leaf: made.id, updated: Date.now() });
      edit(undefined);
    };
    return (
      <div class="editing">
        <textarea dir="auto" aria-label={t("editAnswer")} rows={6} value={editing} autoFocus onInput={(event) => edit(event.currentTarget.value)} />
        <div class="row end">
          <button type="button" onClick={() => edit(undefined)}>{t("cancel")}</button>
          <button type="button" class="primary" onClick={save}>{t("saveBranch")}</button>
        </div>
      </div>
    );
  }
  const fault = schema && turn.state === "done" && !turn.calls?.length ? answerFault(schema, plainText(turn.text)) : "";
  return (
    <>
      <AnswerBody {...props} />
      {fault && <p class="problem small">{t("schemaMissed")} {fault}</p>}
      <Figures turn={turn} />
      <Actions {...props} onEdit={() => edit(turn.text)} onAgain={() => answerAgain(turn)} />
    </>
  );
}

/** Thinking, text, boxes, calls and what went wrong. */
export function AnswerBody({ turn, pictures, last }: Pick<TurnProps, "turn" | "pictures" | "last">): JSX.Element {
  const [active, setActive] = useState<number | null>(null);
  const streaming = turn.state === "streaming" || turn.state === "waiting";
  const { text, regions } = readRegions(turn.text, streaming);
  const over = (event: Event): void => {
    const mark = (event.target as Element).closest<HTMLElement>("[data-region]");
    setActive(mark ? Number(mark.dataset["region"]) : null);
  };
  return (
    <div class={`answer ${active !== null ? "marking" : ""}`} onPointerOver={regions.length ? over : undefined} onFocusIn={regions.length ? over : undefined}>
      {turn.reasoning && <Thinking turn={turn} open={!text && !turn.calls?.length} now={streaming && !text} />}
      {text && <Markdown text={text} regions={regions} />}
      {streaming && !text && !turn.reasoning && !turn.calls?.length && <p class="working" role="status"><span /><span /><span /><b class="off-screen">{t("working")}</b></p>}
      {regions.length > 0 && <Regions regions={regions} pictures={pictures} active={active} onActive={setActive} />}
      {turn.calls && turn.calls.length > 0 && <Calls turn={turn} open={last && turn.state === "done"} />}
      {turn.state === "waiting" && <p class="problem" role="status">{t("serverAway")}</p>}
      {turn.state === "failed" && turn.problem && (
        <div class="problem" role="alert">
          <p>{told(turn.problem.key)}</p>
          {turn.problem.detail && <p class="detail">{turn.problem.detail}</p>}
        </div>
      )}
      {streaming && <button type="button" class="stop-one" onClick={() => stop(turn)}><Icon name="stop" /> {t("stop")}</button>}
      {last && (turn.state === "cut" || turn.state === "failed") && (
        <button type="button" class="again" onClick={() => continueAnswer(turn)}><Icon name="play" /> {turn.text ? t("continue") : t("tryAgain")}</button>
      )}
    </div>
  );
}

function Thinking({ turn, open, now }: { turn: Turn; open: boolean; now: boolean }): JSX.Element {
  return (
    <details class="thinking" open={open}>
      <summary>{now ? t("thinking") : t("thought")}</summary>
      <Markdown text={turn.reasoning ?? ""} />
    </details>
  );
}

function Actions(props: TurnProps & { onEdit?: () => void; onAgain?: () => void }): JSX.Element {
  const { turn, branch, branches, onEdit, onAgain } = props;
  if (turn.state === "streaming" || turn.state === "waiting") return <div class="actions" />;
  return (
    <div class="actions" role="group" aria-label={t("actions")}>
      <Branches turn={turn} count={branches} index={branch} />
      <CopyButton text={() => plainText(turn.text)} />
      {onAgain && <IconButton icon="redo" label={t("regenerate")} onClick={onAgain} />}
      {onEdit && <IconButton icon="edit" label={t("edit")} onClick={onEdit} />}
      <DeleteButton turn={turn} />
    </div>
  );
}
