// What the tests of the page share: a server with nano, a front that plays scripted answers, a browser.
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer, request as forward, type IncomingMessage, type Server, type ServerResponse } from "node:http";
import { createServer as createSocket, type AddressInfo } from "node:net";
import { networkInterfaces } from "node:os";
import { dirname, join } from "node:path";
import { isDeepStrictEqual } from "node:util";
import { chromium, type Browser, type BrowserContext, type Locator, type Page } from "playwright-core";

export const ROOT = join(import.meta.dirname, "..", "..", "..", "..");
export const EXAMPLES = join(ROOT, "examples");
export const SHOTS = join(ROOT, "build", "page");
export const PROGRAM = process.env["POCKETVLM"] ?? join(ROOT, ".venv", "bin", "pocketvlm");
const CHROMIUM = ["chromium", "chromium-browser", "google-chrome"]
  .flatMap((name) => (process.env["PATH"] ?? "").split(":").map((folder) => join(folder, name)))
  .find((path) => existsSync(path));
// PAGE_SLOWDOWN=6 slows the browser's processor, which finds tests and code that race.
const SLOWDOWN = Number(process.env["PAGE_SLOWDOWN"] ?? 1);
const PATIENT = 30_000 * SLOWDOWN;

export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const socket = createSocket().listen(0, "127.0.0.1", () => {
      const { port } = socket.address() as AddressInfo;
      socket.close(() => resolve(port));
    });
  });
}

// What a test has started and, where it fails, not stopped: the run would not end.
const started = new Set<{ stop: () => unknown }>();

/** A server process on one port; it can be ended and started again. */
export class Serving {
  readonly port: number;
  private readonly options: string[];
  private process: ChildProcess | undefined;

  constructor(port: number, options: string[]) {
    this.port = port;
    this.options = options;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  /** program: what runs the server, and its first arguments. */
  async start(environment: Record<string, string> = {}, program: [string, ...string[]] = [PROGRAM]): Promise<void> {
    const [name, ...first] = program;
    const command = [...first, "serve", "nano", "--port", String(this.port), "--threads", "1", "--log", "none", ...this.options];
    started.add(this);
    this.process = spawn(name, command, { env: { ...process.env, ...environment }, stdio: ["ignore", "ignore", "pipe"] });
    let said = "";
    this.process.stderr!.on("data", (chunk: Buffer) => (said += chunk.toString()));
    await until(async () => {
      assert.equal(this.process?.exitCode, null, said);
      return (await fetch(`${this.url}health`).catch(() => undefined))?.ok;
    });
  }

  async stop(): Promise<void> {
    const ended = this.process;
    if (!ended || ended.exitCode !== null || ended.signalCode !== null) return;
    const gone = new Promise((resolve) => ended.once("exit", resolve));
    ended.kill("SIGKILL");
    await gone;
  }
}

export async function serve(options: string[] = [], environment: Record<string, string> = {}): Promise<Serving> {
  const serving = new Serving(await freePort(), options);
  await serving.start(environment);
  return serving;
}

// A server that fetches from this machine, too: the tests have no other address. The rest of the fetch is as ever.
const FETCHING = "import sys, pocketvlm.server.addresses as a; a.is_public = lambda address: True; from pocketvlm.cli import main; sys.exit(main(sys.argv[1:]))";

export async function serveFetching(): Promise<Serving> {
  const serving = new Serving(await freePort(), []);
  await serving.start({}, [join(dirname(PROGRAM), "python"), "-c", FETCHING]);
  return serving;
}

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

  private readonly target: number;
  private readonly prefix: string;

  constructor(target: number, prefix = "") {
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
    const passed = forward({ host: "127.0.0.1", port: this.target, path: this.removesPrefix ? asked.url?.slice(this.prefix.length) : asked.url, method: asked.method, headers }, (found) => {
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

let browser: Browser | undefined;

/** A tab. A JavaScript error or a refused resource fails the test that caused it. */
export class Tab {
  readonly page: Page;
  readonly faults: string[];
  readonly context: BrowserContext;

  constructor(context: BrowserContext, page: Page, faults: string[]) {
    this.context = context;
    this.page = page;
    this.faults = faults;
  }

  get composer(): Locator {
    return this.page.locator(".composer > textarea");
  }

  answer(index = -1): Locator {
    const all = this.page.locator("article.assistant");
    return index < 0 ? all.last() : all.nth(index);
  }

  /** Wait until the last answer contains a text. */
  said(text: string): Promise<void> {
    return this.answer().locator(".markdown", { hasText: text }).first().waitFor();
  }

  /** Send a text and wait until its answer has ended. */
  async ask(text: string): Promise<Locator> {
    const before = await this.page.locator("article.assistant[data-state=done]").count();
    await this.composer.fill(text);
    await this.composer.press("Enter");
    await this.page.locator("article.assistant[data-state=done]").nth(before).waitFor({ timeout: PATIENT });
    return this.answer();
  }

  async attach(...names: string[]): Promise<void> {
    const before = await this.page.locator(".composer .chip:not(.loading)").count();
    await this.page.locator(".composer input[type=file]").setInputFiles(names.map((name) => join(EXAMPLES, name)));
    await this.page.locator(".composer .chip:not(.loading)").nth(before + names.length - 1).waitFor();
  }

  shot(name: string): Promise<unknown> {
    return this.page.screenshot({ path: join(SHOTS, `${name}.png`), animations: "disabled" });
  }

  async close(): Promise<void> {
    await this.context.close();
    assert.deepEqual(this.faults, []);
  }
}

export interface TabOptions {
  width?: number;
  height?: number;
  dark?: boolean;
  locale?: string;
  /** Failed requests belong to the test. */
  failures?: boolean;
  /** Runs in the page before its own code. */
  before?: () => void;
  /** The profile of another tab. */
  context?: BrowserContext;
}

/** A fresh browser profile on a page. */
export async function open(url: string, options: TabOptions = {}): Promise<Tab> {
  assert.ok(CHROMIUM, "no Chromium: apt-get install chromium");
  browser ??= await chromium.launch({ executablePath: CHROMIUM, args: ["--no-sandbox", "--use-fake-device-for-media-stream"] });
  const context = options.context ?? await browser.newContext({
    viewport: { width: options.width ?? 1200, height: options.height ?? 800 },
    colorScheme: options.dark ? "dark" : "light",
    locale: options.locale ?? "en-GB",
    acceptDownloads: true,
  });
  context.setDefaultTimeout(PATIENT);
  const page = await context.newPage();
  if (options.before) await page.addInitScript(options.before);
  if (SLOWDOWN > 1) await (await context.newCDPSession(page)).send("Emulation.setCPUThrottlingRate", { rate: SLOWDOWN });
  const faults: string[] = [];
  page.on("pageerror", (error) => faults.push(error.message));
  page.on("console", (message) => {
    const isFailure = message.text().startsWith("Failed to load resource");
    if (message.type() === "error" && !(options.failures && isFailure)) faults.push(message.text());
  });
  await page.goto(url);
  await page.locator(".composer").waitFor();
  return new Tab(context, page, faults);
}

export async function closeBrowser(): Promise<void> {
  await browser?.close();
  browser = undefined;
  for (const each of started) await each.stop();
}

/** Wait until a value of the page is the expected one. */
export async function eventually<T>(read: () => Promise<T>, expected: T): Promise<void> {
  let found: T | undefined;
  try {
    await until(async () => isDeepStrictEqual((found = await read()), expected));
  } catch {
    assert.deepEqual(found, expected);
  }
}

export async function until(check: () => unknown, milliseconds = PATIENT): Promise<void> {
  const deadline = Date.now() + milliseconds;
  for (;;) {
    if (await check()) return;
    assert.ok(Date.now() < deadline, "it did not happen in time");
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** A PDF file of empty pages, each with a filled square. */
export function pdfOf(pages: number): Buffer {
  const objects = ["<</Type/Catalog/Pages 2 0 R>>", `<</Type/Pages/Count ${pages}/Kids[${Array.from({ length: pages }, (_, index) => `${3 + 2 * index} 0 R`).join(" ")}]>>`];
  for (let page = 0; page < pages; page++) {
    const drawing = `${page / pages} 0.4 0.6 rg 20 20 ${40 + 20 * page} 60 re f`;
    objects.push(`<</Type/Page/Parent 2 0 R/MediaBox[0 0 200 200]/Contents ${4 + 2 * page} 0 R>>`, `<</Length ${drawing.length}>>stream\n${drawing}\nendstream`);
  }
  let text = "%PDF-1.4\n";
  const offsets = objects.map((object, index) => {
    const at = text.length;
    text += `${index + 1} 0 obj${object}endobj\n`;
    return at;
  });
  const table = text.length;
  text += `xref\n0 ${objects.length + 1}\n0000000000 65535 f \n${offsets.map((at) => `${String(at).padStart(10, "0")} 00000 n \n`).join("")}trailer<</Size ${objects.length + 1}/Root 1 0 R>>\nstartxref\n${table}\n%%EOF`;
  return Buffer.from(text, "latin1");
}
