// A field for a number that may stay empty.
import type { JSX } from "preact";
import { useState } from "preact/hooks";
import { t } from "../text/index.ts";
import { Field } from "./parts.tsx";

interface NumberFieldProps {
  label: string;
  hint?: string;
  value: number | undefined;
  min?: number;
  max?: number;
  step: number;
  onValue: (value: number | undefined) => void;
}

export function NumberField(props: NumberFieldProps): JSX.Element {
  const { label, value, min, max, step, onValue } = props;
  // What is typed stays until it is read, also where the page draws the field again.
  const [typed, type] = useState<string | undefined>(undefined);
  const read = (text: string): void => {
    const given = text === "" ? undefined : Number(text);
    if (given !== undefined && (!Number.isFinite(given) || (min !== undefined && given < min) || (max !== undefined && given > max))) return;
    type(undefined);
    onValue(given);
  };
  const field = <input type="number" inputMode="decimal" placeholder={t("default")} value={typed ?? value ?? ""} min={min} max={max} step={step} onInput={(event) => type(event.currentTarget.value)} onChange={(event) => read(event.currentTarget.value)} />;
  return props.hint === undefined ? <Field label={label}>{field}</Field> : <Field label={label} hint={props.hint}>{field}</Field>;
}
