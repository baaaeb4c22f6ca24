// Requests to the server that the page came from: relative addresses, the key of the session, errors as exceptions.
import { signal } from "@preact/signals";
import { session } from "../lib/storage.ts";
import { AwayError, readError, RequestError } from "../lib/problems.ts";

const KEY = "pocketvlm-key";

/** Whether the key dialog is open, and why. */
export const keyNeeded = signal<"" | "missing" | "wrong">("");
/** Whether the last request reached the server. */
export const away = signal(false);

let given: ((key: string) => void) | undefined;
let pending: Promise<string> | undefined;

export function address(path: string): string {
  return new URL(path, document.baseURI).href;
}

/** Whether requests carry a key. */
export function hasKey(): boolean {
  return session.get(KEY) !== null;
}

/** The key dialog's answer. */
export function giveKey(key: string): void {
  session.set(KEY, key);
  keyNeeded.value = "";
  pending = undefined;
  given?.(key);
}

function askForKey(why: "missing" | "wrong"): Promise<string> {
  pending ??= new Promise((resolve) => {
    given = resolve;
    keyNeeded.value = why;
  });
  return pending;
}

/** The answer of a successful request. Throws RequestError and AwayError; asks for a key where one is needed. */
export async function request(path: string, options: RequestInit = {}): Promise<Response> {
  for (;;) {
    const key = session.get(KEY);
    const headers = new Headers(options.headers);
    if (key) headers.set("Authorization", `Bearer ${key}`);
    let answer: Response;
    try {
      answer = await fetch(address(path), { ...options, headers, cache: "no-store" });
    } catch (error) {
      if (options.signal?.aborted) throw error;
      away.value = true;
      throw new AwayError();
    }
    away.value = false;
    if (answer.ok) return answer;
    const failure = readError(answer.status, await answer.text().catch(() => ""));
    if (answer.status === 502 || answer.status === 504) throw new AwayError();
    if (answer.status !== 401) throw failure;
    // Another request may have asked for a new key meanwhile.
    if (session.get(KEY) === key) await askForKey(key ? "wrong" : "missing");
  }
}

export async function get<T>(path: string): Promise<T> {
  return (await (await request(path)).json()) as T;
}

export async function post<T>(path: string, body: unknown, signal?: AbortSignal): Promise<T> {
  const options = { method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" } };
  return (await (await request(path, signal ? { ...options, signal } : options)).json()) as T;
}

/** Whether the server answers now. */
export async function reachable(): Promise<boolean> {
  try {
    away.value = !(await fetch(address("health/ready"), { cache: "no-store" })).ok;
  } catch {
    away.value = true;
  }
  return !away.value;
}

/** Wait until the server answers; returns whether it did at once. Throws where the signal aborts. */
export async function untilReachable(signal?: AbortSignal): Promise<boolean> {
  for (let asked = 1; ; asked++) {
    const found = await reachable();
    signal?.throwIfAborted();
    if (found) return asked === 1;
    await pause(1000, signal);
  }
}

/** Wait some milliseconds. Throws at once where the signal aborts. */
export function pause(milliseconds: number, signal?: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const timer = setTimeout(resolve, milliseconds);
    signal?.addEventListener("abort", () => { clearTimeout(timer); reject(signal.reason as Error); }, { once: true });
  });
}

export function isGone(error: unknown): boolean {
  return error instanceof RequestError && error.code === "file_not_found";
}
