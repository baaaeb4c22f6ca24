// The page "server": load, queue, memory and caches from /metrics, the model, limits.
import type { JSX } from "preact";
import { useEffect, useState } from "preact/hooks";
import { bytes, count, seconds } from "../lib/format.ts";
import { mean, parseMetrics, type Samples } from "../lib/metrics.ts";
import { download } from "../lib/copy.ts";
import type { Model } from "../lib/types.ts";
import { get, hasKey, post, request } from "../store/api.ts";
import * as state from "../store/state.ts";
import { language, t, type Key } from "../text/index.ts";

const EVERY = 2000;

interface Health { status: string; concurrency: number; max_concurrency: number }
interface Listed extends Model { root: string; modalities?: { input: string[] } }
interface Details { details: { parameter_size: string; quantization_level: string; format: string } }
type Limits = Record<string, number | boolean>;
interface Facts { version: string; models: Listed[]; details: Details["details"]; limits: Limits }

const LIMITS: readonly { name: string; unit: "bytes" | "seconds" | "count" | "switch" }[] = [
  { name: "max_model_len", unit: "count" }, { name: "max_seqs", unit: "count" }, { name: "max_queue", unit: "count" },
  { name: "default_max_tokens", unit: "count" }, { name: "max_images", unit: "count" }, { name: "max_media_bytes", unit: "bytes" },
  { name: "max_pixels", unit: "count" }, { name: "max_visual_tokens", unit: "count" }, { name: "max_videos", unit: "count" },
  { name: "max_video_frames", unit: "count" }, { name: "max_video_seconds", unit: "seconds" }, { name: "max_files_bytes", unit: "bytes" },
  { name: "file_seconds", unit: "seconds" }, { name: "max_body_bytes", unit: "bytes" }, { name: "queue_timeout", unit: "seconds" },
  { name: "request_timeout", unit: "seconds" }, { name: "fetch_media", unit: "switch" },
];

/** The description of the API as a file: a link would carry no key. */
async function saveApi(): Promise<void> {
  download("openapi.json", await (await request("openapi.json")).text(), "application/json");
}

async function facts(): Promise<Facts> {
  const [version, models, limits] = await Promise.all([
    get<{ version: string }>("version"), get<{ data: Listed[] }>("v1/models"), get<Limits>("limits"),
  ]);
  const { details } = await post<Details>("api/show", { model: models.data[0]?.id ?? "" });
  return { version: version.version, models: models.data, details, limits };
}

export function ServerPage(): JSX.Element {
  const [known, setKnown] = useState<Facts | undefined>(undefined);
  const [health, setHealth] = useState<Health | undefined>(undefined);
  const [samples, setSamples] = useState<Samples>(new Map());
  useEffect(() => {
    let timer: ReturnType<typeof setTimeout>;
    let here = true;
    const read = async (): Promise<void> => {
      try {
        const [now, metrics] = await Promise.all([get<Health>("health"), request("metrics").then((answer) => answer.text())]);
        if (!here) return;
        setHealth(now);
        setSamples(parseMetrics(metrics));
        setKnown((before) => before ?? (void facts().then((found) => here && setKnown(found)).catch(state.report), before));
      } catch {
        if (here) setHealth(undefined);
      }
      if (here) timer = setTimeout(() => void read(), EVERY);
    };
    void read();
    return () => { here = false; clearTimeout(timer); };
  }, []);
  const number = (name: string): number => samples.get(name) ?? 0;
  const average = (name: string): string => { const value = mean(samples, name); return value === undefined ? "–" : seconds(value); };
  const word = (value: number): string => count(Math.round(value), language.value);
  return (
    <main class="server" tabIndex={-1}>
      <div class="column">
        <h1>{t("server")}</h1>
        <p class={health ? "status on" : "status"} role="status">{health ? t(health.status === "draining" ? "draining" : "healthy") : t("error.away")}</p>
        <div class="tiles">
          <Tile name={t("running")} value={word(number("pocketvlm_running"))} note={health ? t("ofMax", { max: health.max_concurrency }) : ""} share={health ? number("pocketvlm_running") / health.max_concurrency : 0} />
          <Tile name={t("waiting")} value={word(number("pocketvlm_waiting"))} note={t("refused", { count: word(number("pocketvlm_refused")) })} />
          <Tile name={t("memory")} value={bytes(number("pocketvlm_engine_bytes_used"))} note={t("ofMax", { max: bytes(number("pocketvlm_engine_bytes_limit")) })} share={number("pocketvlm_engine_bytes_used") / (number("pocketvlm_engine_bytes_limit") || 1)} />
          <Tile name={t("prefixCache")} value={bytes(number("pocketvlm_engine_prefix_bytes"))} note={t("cachedTokens", { count: word(number("pocketvlm_cached_tokens_total")) })} />
          <Tile name={t("visionCache")} value={bytes(number("pocketvlm_engine_vision_bytes"))} note="" />
          <Tile name={t("ttft")} value={average("pocketvlm_ttft_seconds")} note={t("meanOf", { count: word(number("pocketvlm_ttft_seconds_count")) })} />
          <Tile name={t("tokenTime")} value={average("pocketvlm_inter_token_seconds")} note="" />
          <Tile name={t("tokensSaid")} value={word(number("pocketvlm_completion_tokens_total"))} note={t("tokensRead", { count: word(number("pocketvlm_prompt_tokens_total")) })} />
        </div>
        {known && (
          <>
            <h2>{t("model")}</h2>
            <dl class="facts">
              <div><dt>{t("names")}</dt><dd>{known.models.filter((each) => !each.parent).map((each) => each.id).join(", ")}</dd></div>
              {known.models.some((each) => each.parent) && <div><dt>{t("adapters")}</dt><dd>{known.models.filter((each) => each.parent).map((each) => each.id).join(", ")}</dd></div>}
              <div><dt>{t("checkpoint")}</dt><dd>{known.models[0]?.root}</dd></div>
              <div><dt>{t("parameters")}</dt><dd>{known.details.parameter_size}</dd></div>
              <div><dt>{t("weights")}</dt><dd>{known.details.quantization_level}</dd></div>
              <div><dt>{t("reads")}</dt><dd>{known.models[0]?.modalities?.input.join(", ")}</dd></div>
              <div><dt>{t("version")}</dt><dd>{known.version} · {hasKey() ? <button type="button" class="link" onClick={() => void saveApi().catch(state.report)}>{t("apiFile")}</button> : <a href="./docs" target="_blank" rel="noopener">{t("api")}</a>}</dd></div>
            </dl>
            <h2>{t("limits")}</h2>
            <dl class="facts">{LIMITS.map(({ name, unit }) => <div key={name}><dt>{t(`limit.${name}` as Key)}</dt><dd>{limit(known.limits[name], unit)}</dd></div>)}</dl>
            <h2>{t("engine")}</h2>
            <dl class="facts">{[...samples].filter(([name]) => name.startsWith("pocketvlm_engine_")).map(([name, value]) => <div key={name}><dt>{name.slice(17).replaceAll("_", " ")}</dt><dd>{/bytes|memory/.test(name) ? bytes(value) : word(value)}</dd></div>)}</dl>
          </>
        )}
      </div>
    </main>
  );
}

function limit(value: number | boolean | undefined, unit: "bytes" | "seconds" | "count" | "switch"): string {
  if (typeof value === "boolean") return value ? t("yes") : t("no");
  if (value === undefined) return "–";
  return unit === "bytes" ? bytes(value) : unit === "seconds" ? seconds(value) : count(value, language.value);
}

function Tile({ name, value, note, share }: { name: string; value: string; note: string; share?: number }): JSX.Element {
  return (
    <section class="card tile" aria-label={name}>
      <h3>{name}</h3>
      <p class="big">{value}</p>
      {share !== undefined && <span class="gauge"><span style={{ width: `${Math.min(100, share * 100)}%` }} /></span>}
      <p class="hint">{note}</p>
    </section>
  );
}
