// The way to the other versions of a turn, and to its end.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { branches } from "../lib/tree.ts";
import type { Turn } from "../lib/types.ts";
import { deleteTurn } from "../store/deletion.ts";
import * as state from "../store/state.ts";
import { t } from "../text/index.ts";
import { IconButton } from "./parts.tsx";

export function Branches({ turn, count, index }: { turn: Turn; count: number; index: number }): JSX.Element | null {
  if (count < 2) return null;
  const go = (step: number): void => {
    const next = branches(state.after.value, turn)[index + step];
    if (next) state.showBranch(next);
  };
  return (
    <span class="branches">
      <IconButton icon="left" label={t("previousBranch")} disabled={index === 0} onClick={() => go(-1)} />
      <span aria-label={t("branchOf", { number: index + 1, total: count })} role="img">{index + 1}/{count}</span>
      <IconButton icon="right" label={t("nextBranch")} disabled={index === count - 1} onClick={() => go(1)} />
    </span>
  );
}

/** Deletes at the second click. */
export function DeleteButton({ turn }: { turn: Turn }): JSX.Element {
  const [sure, setSure] = useState(false);
  const click = (): void => (sure ? void deleteTurn(turn).catch(state.report) : setSure(true));
  return <IconButton icon="trash" label={sure ? t("reallyDelete") : t("delete")} class={sure ? "danger" : ""} onClick={click} />;
}
