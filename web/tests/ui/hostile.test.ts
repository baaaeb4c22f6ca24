// A browser and people that are not kind: no storage, a full disk, huge texts, formulas that explode, other directions of writing.
import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually, Gate, open, said, says, serve, setUp, type Step, type Tab, until } from "./kit.ts";

const { front } = setUp();

async function importText(tab: Tab, name: string, text: string): Promise<void> {
  await tab.page.locator(".sidebar input[type=file]").setInputFiles({ name, mimeType: "application/json", buffer: Buffer.from(text) });
}

/** A browser that lets the page store nothing, as with all cookies blocked. */
function withoutStorage(): void {
  const refuse = (): never => { throw new DOMException("access is denied", "SecurityError"); };
  for (const name of ["localStorage", "sessionStorage", "indexedDB"]) Object.defineProperty(window, name, { get: refuse });
}

test("without any storage the page works until it is closed, and says so", async () => {
  const tab = await open(front.url, { before: withoutStorage });
  await tab.page.getByText("This browser does not let the page store anything").waitFor();
  await tab.attach("penguin.png");
  const answer = await tab.ask("What is this?");
  assert.match(await answer.locator(".markdown").innerText(), /penguin/i);
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  front.scripts.push(says("second"));
  await tab.ask("another");
  await tab.page.locator(".entry", { hasText: "What is this?" }).click();
  await tab.page.locator("article.user .shot img").waitFor();
  await tab.shot("without-storage");
  await tab.close();
});

/** A database that is full, once the test says so. */
function fullDatabase(): void {
  const put = IDBObjectStore.prototype.put;
  IDBObjectStore.prototype.put = function (...given: Parameters<typeof put>) {
    if ((window as unknown as { full?: boolean }).full) throw new DOMException("no space", "QuotaExceededError");
    return put.apply(this, given);
  };
}

test("a full database: a sentence says so, and the conversation goes on", async () => {
  const tab = await open(front.url, { before: fullDatabase });
  await tab.page.evaluate(() => void ((window as unknown as { full: boolean }).full = true));
  front.scripts.push(says("still answers"));
  // The sentence goes after some seconds.
  const told = tab.page.locator(".notice").getByText("The browser has no more space for this page.").waitFor();
  await Promise.all([told, tab.ask("hello")]);
  await tab.said("still answers");
  await tab.close();
});

test("a huge text is pasted, asked, and folded", async () => {
  const tab = await open(front.url);
  const text = "word ".repeat(100_000);
  await tab.page.evaluate((pasted) => {
    const field = document.querySelector<HTMLTextAreaElement>(".composer > textarea")!;
    field.value = pasted;
    field.dispatchEvent(new InputEvent("input", { bubbles: true }));
  }, text);
  front.scripts.push(says("long"));
  await tab.composer.press("Enter");
  await tab.said("long");
  assert.equal((front.bodies.at(-1)!["messages"] as { content: string }[])[0]!.content.length, text.trim().length);
  assert.ok((await tab.page.locator("article.user .plain").textContent())!.length <= 20_000);
  await tab.page.getByRole("button", { name: /Show all/ }).waitFor();
  await tab.close();
});

const BOMBS = [
  `$${"x^{".repeat(2000)}y${"}".repeat(2000)}$`, `$$\\def\\a#1{#1#1#1#1}${"\\a{".repeat(12)}x${"}".repeat(12)}$$`, "$\\rule{99999em}{99999em}$",
  ">".repeat(30_000), "- ".repeat(5000) + "x", "[".repeat(30_000), "<".repeat(30_000), "<ref>".repeat(20_000), "`".repeat(9000),
];

test("formulas and markup that would stop the page are shown as text, and the rest is drawn", async () => {
  const tab = await open(front.url);
  for (const bomb of BOMBS) {
    await importText(tab, "bomb.json", JSON.stringify([{ role: "user", content: "x" }, { role: "assistant", content: `${bomb}\n\n**The end.**` }]));
    await tab.answer().locator("strong", { hasText: "The end." }).or(tab.answer().getByText("**The end.**")).first().waitFor();
    await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  }
  await tab.close();
});

test("long code, long words, and text from right to left", async () => {
  const tab = await open(front.url, { width: 360, height: 740 });
  const code = `\`\`\`python\n${"value = compute(1, 2, 3)  # a comment\n".repeat(3000)}\`\`\``;
  front.scripts.push(says("مرحبا بالعالم **نص**\n\n`code` x = 1\n\n```\na = [1]\n```"), [{ delta: { content: `${code}\n\n${"w".repeat(3000)}` } }, { finish: "stop" }]);
  await tab.ask("שלום עולם");
  const directionOf = (selector: string): Promise<string> => tab.page.locator(selector).first().evaluate((element) => getComputedStyle(element).direction);
  assert.equal(await directionOf("article.user .plain"), "rtl");
  assert.equal(await directionOf(".markdown > div"), "rtl");
  assert.equal(await directionOf(".markdown pre"), "ltr");
  await tab.shot("right-to-left");
  await tab.ask("long");
  await eventually(() => tab.page.evaluate(() => document.documentElement.scrollWidth), 360);
  await tab.close();
});

test("exports that mean harm do nothing, and broken ones are named", async () => {
  const tab = await open(front.url, { failures: true });
  const asked: string[] = [];
  tab.page.on("request", (request) => asked.push(request.url()));
  await tab.page.evaluate(() => void ((window as unknown as { harmed: number }).harmed = 0));
  const markup = '<img src=x onerror="harmed=1">';
  const svg = `data:image/svg+xml;base64,${Buffer.from('<svg xmlns="http://www.w3.org/2000/svg" onload="harmed=1"/>').toString("base64")}`;
  const talk = [
    { role: "system", content: markup },
    { role: "user", content: markup, __proto__: { polluted: 1 } },
    { role: "assistant", content: markup, reasoning_content: markup, tool_calls: ["__proto__", "constructor", "__proto__"].map((id) => ({ id, type: "function", function: { name: markup, arguments: markup } })) },
  ];
  await importText(tab, "harm.json", JSON.stringify(talk));
  await eventually(() => tab.page.locator(".call").count(), 3);
  const send = tab.page.getByRole("button", { name: "Send the results" });
  assert.ok(await send.isDisabled(), "no result was given yet");
  assert.deepEqual(await tab.page.locator(".call textarea").evaluateAll((fields) => fields.map((field) => (field as HTMLTextAreaElement).value)), ["", "", ""]);
  await importText(tab, "svg.json", JSON.stringify([{ role: "user", content: [{ type: "image_url", image_url: { url: svg } }] }]));
  await tab.page.locator(".notice").getByText("svg.json cannot be imported").waitFor();
  const broken = { "cut.json": '[{"role": "user"', "role.json": '[{"role": "__proto__", "content": ""}]', "b64.json": '[{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:image/png;base64,$$$"}}]}]', "empty.json": "[]", "number.json": "7" };
  for (const [name, text] of Object.entries(broken)) {
    await importText(tab, name, text);
    await tab.page.locator(".notice").getByText(`${name} cannot be imported`).waitFor();
  }
  assert.equal(await tab.page.evaluate(() => (window as unknown as { harmed: number }).harmed), 0);
  assert.deepEqual(asked.filter((url) => !url.startsWith(front.url) && !url.startsWith("blob:")), []);
  await tab.close();
});

test("a connection that ends again and again: a few tries, then a sentence and a button", async () => {
  const tab = await open(front.url, { failures: true });
  // A browser repeats a request by itself while nothing was answered, so each connection ends when it has seen an answer begin.
  const gates = Array.from({ length: 5 }, () => new Gate());
  const waiting = [...gates];
  tab.page.on("response", (response) => { if (response.url().endsWith("/v1/chat/completions")) waiting.shift()?.open(); });
  front.scripts.push(...gates.map((gate): Step[] => [{ delta: {} }, { gate, cut: true }]));
  const before = front.bodies.length;
  await tab.send("hello");
  await tab.page.getByText("The connection ended again and again").waitFor({ timeout: 120_000 });
  assert.equal(front.bodies.length - before, 5);
  front.scripts.push(says("at last"));
  await tab.page.getByRole("button", { name: "Try again" }).click();
  await tab.said("at last");
  await tab.close();
});

test("a question is deleted while its answer streams, and nothing of it comes back", async () => {
  const tab = await open(front.url);
  front.scripts.push(says("one"), [...said("streams "), { gate: new Gate() }]);
  await tab.ask("first");
  await tab.send("second");
  await tab.said("streams");
  const second = tab.page.locator("article.user").nth(1);
  await second.getByRole("button", { name: "Delete, with" }).click();
  await second.getByRole("button", { name: "Click again" }).click();
  await eventually(() => tab.page.locator("article").count(), 2);
  await tab.page.reload();
  await tab.said("one");
  await eventually(() => tab.page.locator("article").count(), 2);
  await tab.close();
});

test("counts of a picture come when the server is back", async () => {
  const own = await serve();
  const tab = await open(own.url, { failures: true });
  await tab.page.locator(".model-name", { hasText: "nano" }).waitFor();
  await own.stop();
  await tab.attach("penguin.png");
  await tab.page.locator(".banner").waitFor();
  await own.start();
  await until(async () => /16x \d+ · 4x \d+/.test(await tab.page.locator(".chip .hint").innerText()));
  await tab.page.locator(".banner").waitFor({ state: "hidden" });
  await tab.close();
  await own.stop();
});
