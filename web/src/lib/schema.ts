// JSON schemas: whether a text is one, and whether an answer satisfies it.
import { Validator, type Schema } from "@cfworker/json-schema";

/** What is wrong with the text of a schema; empty if nothing is. */
export function schemaFault(text: string): string {
  if (!text.trim()) return "";
  try {
    const schema: unknown = JSON.parse(text);
    if (typeof schema !== "object" || schema === null || Array.isArray(schema)) return "a schema is an object in braces";
    new Validator(schema as Schema).validate({});
    return "";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}

/** What is wrong with an answer under a schema; empty if nothing is. */
export function answerFault(schema: string, answer: string): string {
  try {
    const { valid, errors } = new Validator(JSON.parse(schema) as Schema).validate(JSON.parse(answer));
    if (valid) return "";
    const last = errors.at(-1);
    return last ? `${last.instanceLocation}: ${last.error}` : "?";
  } catch (error) {
    return error instanceof Error ? error.message : String(error);
  }
}
