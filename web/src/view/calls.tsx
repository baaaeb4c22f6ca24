// Calls of tools as cards: arguments, a result typed by hand or computed by a demonstration tool.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { runDemo } from "../lib/demo.ts";
import type { ToolCall, Turn } from "../lib/types.ts";
import { giveResults } from "../store/answers.ts";
import { t } from "../text/index.ts";
import { Icon } from "./icons.tsx";

export function pretty(json: string): string {
  try {
    return JSON.stringify(JSON.parse(json), null, 1);
  } catch {
    return json;
  }
}

/** The calls of an answer. open: whether the page waits for their results. */
export function Calls({ turn, open }: { turn: Turn; open: boolean }): JSX.Element {
  const calls = turn.calls ?? [];
  // By position: ids come from the model's server or a file, and need not differ.
  const [results, setResults] = useState<ReadonlyMap<number, string>>(new Map());
  const complete = calls.every((_, index) => results.has(index));
  const set = (index: number, text: string): void => setResults(new Map(results).set(index, text));
  const send = (): void => giveResults(calls.map((call, index) => ({ callId: call.id, text: results.get(index) ?? "" })));
  return (
    <div class="calls">
      {calls.map((call, index) => <Call key={index} call={call} open={open} result={results.get(index)} onResult={(text) => set(index, text)} />)}
      {open && <button type="button" class="primary" disabled={!complete} onClick={send}>{t("sendResults")}</button>}
    </div>
  );
}

function Call(props: { call: ToolCall; open: boolean; result: string | undefined; onResult: (text: string) => void }): JSX.Element {
  const { call, open, result, onResult } = props;
  const demo = call.name === "calculate" || call.name === "current_time";
  return (
    <section class="card call" aria-label={t("callOf", { name: call.name })}>
      <header><Icon name="tool" /><code>{call.name}</code></header>
      <pre tabIndex={0}>{pretty(call.arguments)}</pre>
      {open && (
        <div class="call-result">
          <textarea rows={2} aria-label={t("resultOf", { name: call.name })} placeholder={t("typeResult")} value={result ?? ""} onInput={(event) => onResult(event.currentTarget.value)} />
          {demo && <button type="button" onClick={() => onResult(runDemo(call.name, call.arguments) ?? "")}><Icon name="play" /> {t("runTool")}</button>}
        </div>
      )}
    </section>
  );
}
