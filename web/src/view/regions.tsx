// The boxes and points of an answer, on the picture that they belong to.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { download } from "../lib/copy.ts";
import { regionsAsJson, type Region } from "../lib/special.ts";
import type { Attachment } from "../lib/types.ts";
import { t } from "../text/index.ts";
import { StoredImage } from "./parts.tsx";

interface RegionsProps {
  regions: readonly Region[];
  pictures: readonly Attachment[];
  active: number | null;
  onActive: (index: number | null) => void;
}

export function Regions({ regions, pictures, active, onActive }: RegionsProps): JSX.Element {
  const [chosen, choose] = useState(0);
  const picture = pictures[Math.min(chosen, pictures.length - 1)];
  const save = (): void => download("regions.json", regionsAsJson(regions, picture?.width, picture?.height), "application/json");
  return (
    <figure class="regions">
      {pictures.length > 1 && (
        <div class="tabs" role="group" aria-label={t("pictureOfRegions")}>
          {pictures.map((each, index) => (
            <button type="button" key={each.id} aria-pressed={each === picture} onClick={() => choose(index)}>{index + 1}. {each.name}</button>
          ))}
        </div>
      )}
      {picture && (
        <div class="canvas">
          <StoredImage blob={picture.shown ?? picture.blob} alt={picture.name} />
          <svg viewBox="0 0 1000 1000" preserveAspectRatio="none" aria-hidden="true">
            {regions.map((region, index) => <Shape key={index} region={region} index={index} active={active === index} onActive={onActive} />)}
          </svg>
          {regions.map((region, index) => (
            <span key={index} class={`tag mark-${index % 6} ${active === null || active === index ? "" : "faint"}`} style={place(region)}>{region.name}</span>
          ))}
        </div>
      )}
      <figcaption>
        {regions.map((region, index) => (
          <button type="button" key={index} class={`mark mark-${index % 6}`} onPointerEnter={() => onActive(index)} onPointerLeave={() => onActive(null)} onFocus={() => onActive(index)} onBlur={() => onActive(null)}>{region.name}</button>
        ))}
        <button type="button" class="link" onClick={save}>{t("saveRegions")}</button>
      </figcaption>
    </figure>
  );
}

function Shape({ region, index, active, onActive }: { region: Region; index: number; active: boolean; onActive: (index: number | null) => void }): JSX.Element {
  const common = {
    class: `shape mark-${index % 6} ${active ? "active" : ""}`,
    onPointerEnter: () => onActive(index),
    onPointerLeave: () => onActive(null),
  };
  if (region.kind === "point") {
    const [x, y] = region.points[0]!;
    // A line of no length with a round end is a dot whose size does not depend on the picture's.
    return <path {...common} class={`${common.class} point`} d={`M${x} ${y}h0.01`} />;
  }
  const points = region.kind === "box" ? corners(region) : region.points;
  return <polygon {...common} points={points.map((point) => point.join(",")).join(" ")} />;
}

function corners(region: Region): [number, number][] {
  const [[left, top], [right, bottom]] = region.points as [[number, number], [number, number]];
  return [[left, top], [right, top], [right, bottom], [left, bottom]];
}

/** Where the name of a region stands: at its upper left corner, near the picture's right side at its upper right one. */
function place(region: Region): Record<string, string> {
  const left = Math.min(...region.points.map(([x]) => x));
  const right = Math.max(...region.points.map(([x]) => x));
  const top = Math.min(930, ...region.points.map(([, y]) => y));
  return { top: `${top / 10}%`, ...(left > 700 ? { right: `${(1000 - right) / 10}%` } : { left: `${left / 10}%` }) };
}
