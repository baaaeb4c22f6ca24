// Choosing who answers: the server's model, or one of the adapters on it.
import type { JSX } from "preact";
import * as state from "../store/state.ts";
import { t } from "../text/index.ts";

/** A list of the model and its adapters. A chosen adapter that the server no longer has stays in it, and is marked. */
export function ModelSelect(props: { value: string; onValue: (name: string) => void; id?: string; label?: string; class?: string }): JSX.Element {
  const { value, onValue, id, label } = props;
  const adapters = state.adapters.value;
  const isGone = value !== "" && !adapters.includes(value);
  return (
    <select id={id} class={props.class} aria-label={label} title={label} value={value} onChange={(event) => onValue(event.currentTarget.value)}>
      <option value="">{state.model.value || t("model")}</option>
      {adapters.map((name) => <option key={name} value={name}>{name}</option>)}
      {isGone && <option value={value}>{t("adapterGone", { name: value })}</option>}
    </select>
  );
}
