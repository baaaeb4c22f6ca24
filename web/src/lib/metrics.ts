// Prometheus' text form: the value of each sample under its name and labels.

export type Samples = ReadonlyMap<string, number>;

export function parseMetrics(text: string): Map<string, number> {
  const found = new Map<string, number>();
  for (const line of text.split("\n")) {
    const match = /^([A-Za-z_:][\w:]*(?:\{[^}]*\})?)\s+(\S+)/.exec(line);
    const value = Number(match?.[2]);
    if (match && Number.isFinite(value)) found.set(match[1]!, value);
  }
  return found;
}

/** The mean of a histogram, undefined before its first sample. */
export function mean(samples: Samples, name: string): number | undefined {
  const total = samples.get(`${name}_count`);
  return total ? (samples.get(`${name}_sum`) ?? 0) / total : undefined;
}
