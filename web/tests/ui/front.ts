// A front of a server: it plays scripted answers, and passes everything else on.
import { createServer, request as forward, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import type { Serving } from "./kit.ts";

// What a test has started and, where it fails, not stopped: the run would not end.
export const started = new Set<{ stop: () => unknown }>();

/** One step of a scripted answer: a delta, a pause in milliseconds, or a gate that the test opens. */
export type Step = { delta?: object; finish?: string; more?: object; pause?: number; cut?: boolean; gate?: Gate };

/** Holds a scripted answer until the test has seen what it waits for. */
export class Gate {
  open!: () => void;
  readonly opened = new Promise<void>((resolve) => (this.open = resolve));
}

/** Stands in front of a server: plays the next script where there is one, passes everything else on. */
export class Front {
  readonly scripts: Step[][] = [];
  readonly bodies: Record<string, unknown>[] = [];
  private server: Server | undefined;
  url = "";
  /** Answers of its own by the end of the path. */
  readonly answers = new Map<string, object>();
  /** Whether requests reach the server without the prefix. */
  removesPrefix = false;

  private readonly target: Serving;
  private readonly prefix: string;

  constructor(target: Serving, prefix = "") {
    this.target = target;
    this.prefix = prefix;
  }

  async start(): Promise<this> {
    started.add(this);
    this.server = createServer((asked, answer) => void this.handle(asked, answer));
    await new Promise<void>((resolve) => this.server!.listen(0, "0.0.0.0", () => resolve()));
    this.url = `http://127.0.0.1:${(this.server.address() as AddressInfo).port}${this.prefix}/`;
    return this;
  }

  /** The front's address by the machine's own, which is no secure context for a browser; undefined without a network. */
  get remote(): string | undefined {
    const found = Object.values(networkInterfaces()).flat().find((each) => each?.family === "IPv4" && !each.internal);
    return found && this.url.replace("127.0.0.1", found.address);
  }

  /** Forget what a test has scripted and asked. */
  clear(): void {
    this.scripts.splice(0);
    this.bodies.splice(0);
    this.answers.clear();
  }

  stop(): void {
    this.server?.closeAllConnections();
    this.server?.close();
  }

  private async handle(asked: IncomingMessage, answer: ServerResponse): Promise<void> {
    const parts: Buffer[] = [];
    for await (const part of asked) parts.push(part as Buffer);
    const body = Buffer.concat(parts);
    if (asked.url?.endsWith("/v1/chat/completions")) {
      this.bodies.push(JSON.parse(body.toString()) as Record<string, unknown>);
      const script = this.scripts.shift();
      if (script) return play(script, answer);
    }
    const own = [...this.answers].find(([path]) => asked.url?.endsWith(path))?.[1];
    if (own) return void answer.writeHead(200, { "content-type": "application/json" }).end(JSON.stringify(own));
    const headers = { ...asked.headers };
    const passed = forward({ host: "127.0.0.1", port: this.target.port, path: this.removesPrefix ? asked.url?.slice(this.prefix.length) : asked.url, method: asked.method, headers }, (found) => {
      answer.writeHead(found.statusCode ?? 502, found.headers);
      found.pipe(answer);
    });
    passed.on("error", () => { answer.destroy(); });
    passed.end(body);
  }
}

async function play(script: Step[], answer: ServerResponse): Promise<void> {
  answer.writeHead(200, { "content-type": "text/event-stream" });
  for (const step of script) {
    if (step.pause) await new Promise((resolve) => setTimeout(resolve, step.pause));
    if (step.gate) await Promise.race([step.gate.opened, new Promise((resolve) => answer.once("close", resolve))]);
    if (step.cut) return void answer.destroy();
    const choice = { index: 0, delta: step.delta ?? {}, finish_reason: step.finish ?? null };
    if (!answer.destroyed) answer.write(`data: ${JSON.stringify({ choices: [choice], ...step.more })}\n\n`);
  }
  if (!answer.destroyed) answer.end("data: [DONE]\n\n");
}

export const TIMINGS = { queue: 0.01, media: 0.02, resize: 0.01, preprocess: 0.02, vision: 0.3, prefill: 0.1, decode: 1, ttft: 0.5, total: 1.5, cached_tokens: 3 };
export const USAGE = { prompt_tokens: 40, completion_tokens: 21, total_tokens: 61, prompt_tokens_details: { cached_tokens: 3, image_tokens: 9 } };

/** Steps that say a text, a few characters at a time. */
export function said(text: string, pause = 0): Step[] {
  return (text.match(/[\s\S]{1,12}/g) ?? []).map((content) => ({ delta: { content }, pause }));
}

/** A script that says a text and ends. */
export function says(text: string, pause = 0, more: Step[] = []): Step[] {
  return [...said(text, pause), ...more, { finish: "stop", more: { timings: TIMINGS } }, { more: { choices: [], usage: USAGE } }];
}
