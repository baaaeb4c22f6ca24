// What the programs for JavaScript's clients share: addresses, a picture, and steps that are all run and then reported.

import { readFileSync } from "node:fs";

export const MODEL = process.env.MODEL_SERVER; // the real model answers here
export const AGENT = process.env.AGENT_SERVER; // here every offered function is called once; then comes DONE
export const BASE64 = readFileSync(process.env.PICTURE).toString("base64");
export const DATA_URI = `data:image/png;base64,${BASE64}`;
export const DONE = "It is done.";

export function check(condition, told) {
  if (!condition) throw new Error(`unexpected: ${JSON.stringify(told)}`);
}

/** Run all steps; exit with 1 if one of them failed. */
export async function run(steps) {
  let failed = 0;
  for (const [name, step] of Object.entries(steps)) {
    try {
      await step();
      console.log(`ok ${name}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${name}: ${String(error).slice(0, 600)}`);
      console.error(error);
    }
  }
  process.exit(failed ? 1 : 0);
}
