// Answers: send a question, stream the answer into its turn, stop, regenerate, continue, compare.
import { randomId } from "../lib/ids.ts";
import { isObject, toMessages, type Source } from "../lib/messages.ts";
import { AwayError, problemOf, RequestError } from "../lib/problems.ts";
import { requestBody } from "../lib/request.ts";
import { title } from "../lib/format.ts";
import { plainText } from "../lib/special.ts";
import { events } from "../lib/sse.ts";
import { group, pathTo } from "../lib/tree.ts";
import type { Attachment, Settings, Timings, ToolCall, Turn, Usage } from "../lib/types.ts";
import { pause, request, untilReachable } from "./api.ts";
import { sourceOf, withUploads } from "./media.ts";
import * as state from "./state.ts";
import { tell } from "./tabs.ts";

// Milliseconds between two drawings of a streaming answer: at first, and so many times what the last one took.
const SHOW_EVERY = 100;
const SHOW_REST = 14;
const SHOW_RARELY = 500;
const SAVE_EVERY = 1000;
// Requests for one answer that may fail one after the other without a new token, although the server can be reached.
const MAX_FAILURES = 5;

function turnOf(conversation: string, parent: string | null, role: Turn["role"], text: string): Turn {
  return { id: randomId(), conversation, parent, created: Date.now(), role, text, state: "done" };
}

export type Variants = { label: string; settings: Settings }[];

/** Add a question after `parent` and answer it, once or in each variant. */
export function ask(text: string, attachments: Attachment[], parent = state.current.value.leaf, variants?: Variants): void {
  const turn = turnOf(state.current.value.id, parent, "user", text);
  if (attachments.length) turn.attachments = attachments;
  state.putTurns([turn]);
  state.persist();
  answer(turn.id, variants);
}

/** Add results of tools after the last answer, and let the model go on. */
export function giveResults(results: { callId: string; text: string }[]): void {
  let parent = state.current.value.leaf;
  const made = results.map(({ callId, text }) => {
    const turn = { ...turnOf(state.current.value.id, parent, "tool", text), callId };
    parent = turn.id;
    return turn;
  });
  state.putTurns(made);
  answer(parent);
}

/** Answer again with another result of a tool; the results after it stay as they are. */
export function replaceResult(turn: Turn, text: string): void {
  const path = state.path.value;
  const first = path.findIndex((each) => each.id === turn.id);
  let parent = turn.parent;
  const made: Turn[] = [];
  for (let at = first; at >= 0 && path[at]?.role === "tool"; at++) {
    const old = path[at]!;
    const copy: Turn = { ...old, id: randomId(), created: Date.now(), parent, text: at === first ? text : old.text };
    made.push(copy);
    parent = copy.id;
  }
  state.putTurns(made);
  answer(parent);
}

/** Answer the question of a turn again; where answers were asked together, each of them with its own settings. */
export function answerAgain(turn: Turn): void {
  const asked = group(state.after.value, turn);
  const own = state.current.value.settings;
  answer(turn.parent, turn.group ? asked.map((each) => ({ label: each.label ?? "", settings: each.settings ?? own })) : undefined);
}

/** Answer the turns up to `parent` in a new branch. */
export function answer(parent: string | null, variants?: Variants): void {
  const conversation = state.current.value;
  const together = variants ? randomId() : undefined;
  const asked = variants ?? [{ label: "", settings: conversation.settings }];
  const made = asked.map((variant, index): Turn => {
    const turn: Turn = { ...turnOf(conversation.id, parent, "assistant", ""), state: "streaming" };
    turn.created += index;
    if (variant.settings.model) turn.model = variant.settings.model;
    return together ? { ...turn, group: together, label: variant.label, settings: variant.settings } : turn;
  });
  state.putTurns(made);
  const named = conversation.title || title(plainText(pathTo(state.turns.value, parent).find((turn) => turn.text)?.text ?? ""));
  state.patchConversation(conversation.id, { title: named, leaf: made[0]!.id, updated: Date.now() });
  made.forEach((turn, index) => void run(turn, asked[index]!.settings));
}

/** Go on with an answer that was cut. */
export function continueAnswer(turn: Turn): void {
  const { problem: _, finish: __, ...rest } = turn;
  void run({ ...rest, state: "streaming" }, turn.settings ?? state.current.value.settings);
}

/** Stop an answer, also one that another tab streams. */
export function stop(turn: Turn): void {
  const own = state.running.get(turn.id);
  if (own) return own.abort.abort();
  // The other tab stores it, with all that was said; where that tab is gone, the turn is cut as it is stored.
  tell({ kind: "stop", turn: turn.id });
  state.putTurns([{ ...turn, state: "cut" }], false);
}

/** Stop the answers of the open conversation. */
export function stopAll(): void {
  for (const turn of state.turns.value.values()) if (turn.state === "streaming" || turn.state === "waiting") stop(turn);
}

async function run(begun: Turn, settings: Settings): Promise<void> {
  const abort = new AbortController();
  const entry = { abort, turn: begun };
  state.running.set(begun.id, entry);
  state.runningCount.value = state.running.size;
  const show = (turn: Turn, save: boolean): void => {
    entry.turn = turn;
    state.putTurns([turn], save);
  };
  show(begun, true);
  const path = pathTo(state.turns.value, begun.parent);
  try {
    for (let failures = 0, said = begun.text; ; ) {
      try {
        await withUploads(() => stream(path, settings, entry, show));
        break;
      } catch (error) {
        if (!(error instanceof AwayError)) throw error;
        failures = entry.turn.text === said ? failures + 1 : 1;
        said = entry.turn.text;
        // The answer so far stays; the server is asked to go on with it when it is back.
        show({ ...entry.turn, state: "waiting" }, true);
        const wasReachable = await untilReachable(abort.signal);
        if (!wasReachable) failures = 0;
        if (failures >= MAX_FAILURES) throw new RequestError(502, "connection_cut", "");
        if (failures > 1) await pause(500 * 2 ** failures, abort.signal);
        if (!wasReachable) await state.readModels().catch(() => undefined);
        show({ ...entry.turn, state: "streaming" }, true);
      }
    }
  } catch (error) {
    const turn = entry.turn;
    if (abort.signal.aborted) show({ ...turn, state: "cut" }, true);
    else show({ ...turn, state: "failed", problem: problemOf(error) }, true);
  } finally {
    state.running.delete(begun.id);
    state.runningCount.value = state.running.size;
    state.patchConversation(begun.conversation, { updated: Date.now() });
  }
}

async function stream(
  path: Turn[],
  settings: Settings,
  entry: { abort: AbortController; turn: Turn },
  show: (turn: Turn, save: boolean) => void,
): Promise<void> {
  const sources = new Map<string, Source>();
  for (const turn of path) for (const each of turn.attachments ?? []) sources.set(each.id, await sourceOf(each));
  // Only text can be continued; unfinished thoughts and calls begin again.
  const continued = entry.turn.text !== "" && !entry.turn.calls?.length;
  const said: Turn = continued ? entry.turn : { ...entry.turn, text: "", reasoning: "", calls: [] };
  const messages = toMessages(settings.system, continued ? [...path, said] : path, (each) => sources.get(each.id)!);
  if (!settings.model && !state.model.value) await state.readModels();
  const body = JSON.stringify(requestBody(settings.model || state.model.value, settings, messages, continued));
  const headers = { "Content-Type": "application/json" };
  const response = await request("v1/chat/completions", { method: "POST", body, headers, signal: entry.abort.signal });
  const drawing = new Drawing(said, show);
  let ended = false;
  try {
    for await (const data of events(response.body!)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      drawing.feed(JSON.parse(data));
    }
  } catch (error) {
    if (entry.abort.signal.aborted || error instanceof RequestError || error instanceof SyntaxError) throw error;
    throw new AwayError();
  } finally {
    drawing.flush();
  }
  if (!ended) throw new AwayError();
  show(finished(drawing.turn), true);
}

function finished(turn: Turn): Turn {
  return { ...turn, text: turn.text.replace(/(?:<\|(?:im_end|endoftext)\|>\s*)+$/, ""), state: "done" };
}

/** Collects the chunks of a stream and shows them some ten times a second. */
class Drawing {
  turn: Turn;
  private text: string;
  private reasoning: string;
  private calls: ToolCall[];
  private timer: ReturnType<typeof setTimeout> | undefined;
  private saved = Date.now();
  private wait = SHOW_EVERY;
  private readonly show: (turn: Turn, save: boolean) => void;

  constructor(turn: Turn, show: (turn: Turn, save: boolean) => void) {
    this.turn = turn;
    this.text = turn.text;
    this.reasoning = turn.reasoning ?? "";
    this.calls = [...(turn.calls ?? [])];
    this.show = show;
  }

  feed(chunk: unknown): void {
    if (!isObject(chunk)) return;
    const error = chunk["error"];
    if (isObject(error)) {
      const code = String(error["code"] ?? "");
      if (code === "shutting_down") throw new AwayError();
      throw new RequestError(Number(error["status"] ?? 500), code, String(error["message"] ?? ""));
    }
    if (isObject(chunk["usage"])) this.turn = { ...this.turn, usage: chunk["usage"] as unknown as Usage };
    if (isObject(chunk["timings"])) this.turn = { ...this.turn, timings: chunk["timings"] as unknown as Timings };
    const choice = Array.isArray(chunk["choices"]) ? (chunk["choices"][0] as unknown) : undefined;
    if (!isObject(choice)) return;
    const delta = isObject(choice["delta"]) ? choice["delta"] : {};
    if (typeof delta["content"] === "string") this.text += delta["content"];
    if (typeof delta["reasoning_content"] === "string") this.reasoning += delta["reasoning_content"];
    if (Array.isArray(delta["tool_calls"])) delta["tool_calls"].forEach((call: unknown) => this.call(call));
    if (typeof choice["finish_reason"] === "string") {
      this.turn = { ...this.turn, finish: choice["finish_reason"] };
      const reason = choice["stop_reason"];
      if (typeof reason === "string" || typeof reason === "number") this.turn = { ...this.turn, stop: reason };
    }
    this.timer ??= setTimeout(() => this.flush(), this.wait);
  }

  private call(given: unknown): void {
    if (!isObject(given)) return;
    const index = Math.min(Math.max(0, Math.trunc(Number(given["index"]) || 0)), this.calls.length);
    const inner = isObject(given["function"]) ? given["function"] : {};
    const before = this.calls[index] ?? { id: String(given["id"] ?? `call_${index}`), name: "", arguments: "" };
    this.calls[index] = {
      ...before,
      name: before.name + String(inner["name"] ?? ""),
      arguments: before.arguments + String(inner["arguments"] ?? ""),
    };
  }

  flush(): void {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.turn = { ...this.turn, text: this.text, reasoning: this.reasoning, calls: [...this.calls] };
    const save = Date.now() - this.saved > SAVE_EVERY;
    if (save) this.saved = Date.now();
    const began = performance.now();
    this.show(this.turn, save);
    // The drawing is a microtask that `show` has queued before this one.
    queueMicrotask(() => {
      this.wait = Math.min(SHOW_RARELY, Math.max(SHOW_EVERY, SHOW_REST * (performance.now() - began)));
    });
  }
}
