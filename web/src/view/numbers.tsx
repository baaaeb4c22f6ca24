// A field for a number that may stay empty.
import type { JSX } from "preact";
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
  const read = (text: string): void => {
    const given = text === "" ? undefined : Number(text);
    if (given !== undefined && (!Number.isFinite(given) || (min !== undefined && given < min) || (max !== undefined && given > max))) return;
    onValue(given);
  };
  const field = <input type="number" inputMode="decimal" placeholder={t("default")} value={value ?? ""} min={min} max={max} step={step} onChange={(event) => read(event.currentTarget.value)} />;
  return props.hint === undefined ? <Field label={label}>{field}</Field> : <Field label={label} hint={props.hint}>{field}</Field>;
}
