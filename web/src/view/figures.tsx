// The line of figures under an answer, and where the time to its first token went.
import type { JSX } from "preact";
import { finishKey, stages, tokensPerSecond } from "../lib/figures.ts";
import { count, seconds } from "../lib/format.ts";
import type { Turn } from "../lib/types.ts";
import { language, t, told, type Key } from "../text/index.ts";

export function Figures({ turn }: { turn: Turn }): JSX.Element | null {
  const { usage, timings } = turn;
  if (!usage && !timings) return turn.state === "cut" ? <p class="figures">{t("finish.cut")}</p> : null;
  const rate = tokensPerSecond(turn);
  const cached = usage?.prompt_tokens_details?.cached_tokens ?? 0;
  const image = usage?.prompt_tokens_details?.image_tokens ?? 0;
  const short = [
    turn.model,
    timings && t("figure.first", { time: seconds(timings.ttft) }),
    usage && t("figure.tokens", { count: count(usage.completion_tokens, language.value) }),
    rate !== undefined && t("figure.rate", { rate: rate < 10 ? rate.toFixed(1) : Math.round(rate) }),
    told(finishKey(turn)),
  ].filter(Boolean);
  const parts = timings ? stages(timings) : [];
  const whole = parts.reduce((sum, part) => sum + part.seconds, 0) || 1;
  return (
    <details class="figures">
      <summary>{short.join(" · ")}</summary>
      {timings && (
        <>
          <div class="bar" role="img" aria-label={t("figure.stages")}>
            {parts.filter((part) => part.seconds / whole > 0.004).map((part) => <span key={part.key} class={`stage-${part.key}`} style={{ flexGrow: part.seconds / whole }} title={`${told(`stage.${part.key}`)} ${seconds(part.seconds)}`} />)}
          </div>
          <dl class="legend">
            {parts.map((part) => (
              <div key={part.key}><dt class={`stage-${part.key}`}>{t(`stage.${part.key}` as Key)}</dt><dd>{seconds(part.seconds)}</dd></div>
            ))}
            <div><dt>{t("stage.decode")}</dt><dd>{seconds(timings.decode)}</dd></div>
            <div><dt>{t("stage.total")}</dt><dd>{seconds(timings.total)}</dd></div>
          </dl>
        </>
      )}
      {usage && (
        <p>
          {t("figure.prompt", { count: count(usage.prompt_tokens, language.value), image: count(image, language.value), cached: count(cached, language.value) })}
          {usage.completion_tokens_details?.reasoning_tokens ? ` · ${t("figure.reasoning", { count: usage.completion_tokens_details.reasoning_tokens })}` : ""}
        </p>
      )}
    </details>
  );
}
