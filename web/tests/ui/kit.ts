// What the tests of the page share: a server with nano, a browser, tabs.
import assert from "node:assert/strict";
import { spawn, type ChildProcess } from "node:child_process";
import { existsSync } from "node:fs";
import { createServer as createSocket, type AddressInfo } from "node:net";
import { dirname, join } from "node:path";
import { after, afterEach, before } from "node:test";
import { isDeepStrictEqual } from "node:util";
import { chromium, type Browser, type BrowserContext, type Locator, type Page } from "playwright-core";
import { Front, started } from "./front.ts";
import { delays } from "./slow.ts";

export { Front, Gate, said, says, TIMINGS, USAGE, type Step } from "./front.ts";

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
// PAGE_JITTER=1 delays each answer of the database, the server and other tabs by up to 300 ms; each number in its own way.
const JITTER = Number(process.env["PAGE_JITTER"] ?? 0);

export function freePort(): Promise<number> {
  return new Promise((resolve) => {
    const socket = createSocket().listen(0, "127.0.0.1", () => {
      const { port } = socket.address() as AddressInfo;
      socket.close(() => resolve(port));
    });
  });
}

/** A server process on one port; it can be ended and started again. */
export class Serving {
  port = 0;
  private readonly options: string[];
  private process: ChildProcess | undefined;

  constructor(options: string[] = []) {
    this.options = options;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/`;
  }

  /** program: what runs the server, and its first arguments. */
  async start(environment: Record<string, string> = {}, program: [string, ...string[]] = [PROGRAM]): Promise<void> {
    this.port ||= await freePort();
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
  const serving = new Serving(options);
  await serving.start(environment);
  return serving;
}

// A server that fetches from this machine, too: the tests have no other address. The rest of the fetch is as ever.
const FETCHING = "import sys, pocketvlm.server.addresses as a; a.is_public = lambda address: True; from pocketvlm.cli import main; sys.exit(main(sys.argv[1:]))";

export async function serveFetching(): Promise<Serving> {
  const serving = new Serving();
  await serving.start({}, [join(dirname(PROGRAM), "python"), "-c", FETCHING]);
  return serving;
}

/** A server and a front for the tests of a file. */
export function setUp(): { serving: Serving; front: Front } {
  const serving = new Serving();
  const front = new Front(serving);
  before(async () => {
    await serving.start();
    await front.start();
  });
  afterEach(async () => {
    await closeTabs();
    front.clear();
  });
  after(async () => {
    front.stop();
    await closeBrowser();
    await serving.stop();
  });
  return { serving, front };
}

let browser: Browser | undefined;
let opened = 0;
// The profiles of tabs that a test has not closed, because it failed: their requests would reach the next one.
const contexts = new Set<BrowserContext>();

async function closeTabs(): Promise<void> {
  for (const context of contexts) await context.close();
  contexts.clear();
}

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
    const before = await this.page.locator("article.user").evaluateAll((list) => list.map((each) => (each as HTMLElement).dataset["turn"]));
    await this.send(text);
    // The conversation may be drawn only after this, as after a reload: other answers in it do not count.
    await until(() => this.page.locator("article").evaluateAll((list, { text, before }) => {
      const [question, answer] = list.slice(-2) as [HTMLElement?, HTMLElement?];
      const isNew = question?.querySelector(".plain")?.textContent === text && !before.includes(question.dataset["turn"]);
      return isNew && answer?.dataset["state"] === "done";
    }, { text, before }));
    return this.answer();
  }

  /** Send a text, as soon as the page lets people send. */
  async send(text: string): Promise<void> {
    await this.composer.fill(text);
    await this.page.locator(".composer .icon-button.send:enabled").waitFor();
    await this.composer.press("Enter");
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
    contexts.delete(this.context);
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
  contexts.add(context);
  context.setDefaultTimeout(PATIENT);
  const page = await context.newPage();
  if (JITTER) await page.addInitScript(delays, JITTER * 1000 + opened++);
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

/** How many entries a store of the page's database has. */
export function stored(tab: Tab, store: string): Promise<number> {
  return tab.page.evaluate((store) => new Promise<number>((resolve) => {
    const asked = indexedDB.open("pocketvlm");
    asked.onsuccess = () => {
      const count = asked.result.transaction(store).objectStore(store).count();
      count.onsuccess = () => { asked.result.close(); resolve(count.result); };
    };
  }), store);
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
