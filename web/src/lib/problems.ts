// Failures in plain words: the status and code of an answer decide the sentence, the server's own words follow.
import { isObject } from "./messages.ts";
import type { Problem } from "./types.ts";

/** An answer that is no success. */
export class RequestError extends Error {
  readonly status: number;
  readonly code: string;
  constructor(status: number, code: string, message: string) {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The server could not be reached, or the connection ended early. */
export class AwayError extends Error {}

const CODES: Record<string, string> = {
  context_length_exceeded: "error.context",
  file_not_found: "error.file",
  invalid_image: "error.image",
  invalid_video: "error.video",
  shutting_down: "error.shutdown",
  host: "error.host",
  origin: "error.host",
  body_too_large: "error.large",
  model_not_found: "error.model",
  connection_cut: "error.cut",
};

const STATUSES: Record<number, string> = {
  400: "error.request",
  401: "error.key",
  403: "error.host",
  404: "error.missing",
  408: "error.timeout",
  413: "error.large",
  422: "error.request",
  429: "error.busy",
  503: "error.busy",
};

export function problemOf(error: unknown): Problem {
  if (error instanceof RequestError) {
    const known = Object.hasOwn(CODES, error.code) ? CODES[error.code] : undefined;
    const key = known ?? STATUSES[error.status] ?? "error.server";
    return { key, detail: error.message };
  }
  if (error instanceof AwayError) return { key: "error.away", detail: "" };
  if (error instanceof Error && error.name === "QuotaExceededError") return { key: "error.full", detail: "" };
  return { key: "error.page", detail: error instanceof Error ? error.message : String(error) };
}

/** The error of a failed answer's body, in OpenAI's form or any other. */
export function readError(status: number, text: string): RequestError {
  let message = text.slice(0, 300);
  let code = "";
  try {
    const body: unknown = JSON.parse(text);
    const error = isObject(body) ? body["error"] : undefined;
    if (isObject(error)) {
      message = String(error["message"] ?? message);
      code = String(error["code"] ?? "");
    } else if (typeof error === "string") {
      message = error;
    }
  } catch {
    // A proxy's page is shown as it is.
  }
  return new RequestError(status, code, message);
}
