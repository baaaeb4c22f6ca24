// The figures under an answer: where the time to its first token went, and how fast tokens came.
import type { Timings, Turn } from "./types.ts";

export interface Stage {
  key: "queue" | "media" | "preprocess" | "vision" | "prefill" | "other";
  seconds: number;
}

/** The parts of the time to the first token, in order; what no stage accounts for is "other". */
export function stages(timings: Timings): Stage[] {
  const parts: Stage[] = [
    { key: "queue", seconds: timings.queue },
    { key: "media", seconds: timings.media },
    { key: "preprocess", seconds: timings.preprocess + timings.resize },
    { key: "vision", seconds: timings.vision },
    { key: "prefill", seconds: timings.prefill },
  ];
  const known = parts.reduce((sum, part) => sum + part.seconds, 0);
  parts.push({ key: "other", seconds: Math.max(0, timings.ttft - known) });
  return parts;
}

/** Tokens a second after the first token; undefined for an answer of one token. */
export function tokensPerSecond(turn: Turn): number | undefined {
  const { usage, timings } = turn;
  if (!usage || !timings || usage.completion_tokens < 2) return undefined;
  const time = timings.total - timings.ttft;
  return time > 0 ? (usage.completion_tokens - 1) / time : undefined;
}

/** The key of the sentence that says why an answer ended. */
export function finishKey(turn: Turn): string {
  if (turn.state === "cut") return "finish.cut";
  if (turn.stop === "repetition") return "finish.repetition";
  if (turn.finish === "stop" && turn.stop !== undefined) return "finish.stopText";
  return `finish.${turn.finish ?? "stop"}`;
}
