// The frames of a video that the model looks at, with their times.
import type { JSX } from "preact";
import { useEffect, useRef, useState } from "preact/hooks";
import { clock } from "../lib/format.ts";
import type { Attachment } from "../lib/types.ts";
import type { VideoViews } from "../lib/views.ts";
import { frameUrl } from "../store/media.ts";
import { t } from "../text/index.ts";

export function Strip({ attachment, views }: { attachment: Attachment; views: VideoViews }): JSX.Element {
  return (
    <>
      <p class="hint">{t("framesOf", { shown: views.pictures.flat().length, total: views.frames })}</p>
      <ol class="frames" tabIndex={0} aria-label={t("framesSeen")}>
        {views.pictures.map((numbers, index) => (
          <li key={index} class={numbers.length > 1 ? "composite" : ""}>
            <span class="stack">{numbers.map((number) => <Frame key={number} attachment={attachment} number={number} />)}</span>
            <small>{times(views.times?.[index]) ?? numbers[0]}</small>
          </li>
        ))}
      </ol>
    </>
  );
}

function times(found: readonly number[] | undefined): string | undefined {
  const first = found?.[0];
  const last = found?.at(-1);
  if (first === undefined || last === undefined) return undefined;
  return found!.length > 1 ? `${clock(round(first))}–${clock(round(last))}` : clock(round(first));
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

/** One frame; it is fetched when it comes into view. */
function Frame({ attachment, number }: { attachment: Attachment; number: number }): JSX.Element {
  const box = useRef<HTMLSpanElement>(null);
  const [url, setUrl] = useState("");
  useEffect(() => {
    let here = true;
    const observer = new IntersectionObserver((entries) => {
      if (!entries.some((entry) => entry.isIntersecting)) return;
      observer.disconnect();
      frameUrl(attachment, number).then((found) => here && setUrl(found), () => undefined);
    });
    if (box.current) observer.observe(box.current);
    return () => { here = false; observer.disconnect(); };
  }, [attachment.blob, number]);
  return <span ref={box} class="frame">{url && <img src={url} alt={t("frame", { number })} />}</span>;
}
