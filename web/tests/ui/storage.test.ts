// What the page shows as done survives: a slow database, a reload at any moment, and what other tabs do meanwhile.
import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually, Gate, open, said, says, setUp, stored, type Tab } from "./kit.ts";
import { holdDatabase } from "./slow.ts";

const { front } = setUp();

/** From now on, or no longer, nothing is stored. It ends with the page, too. */
function hold(tab: Tab, held = true): Promise<void> {
  return tab.page.evaluate((held) => void ((window as unknown as { held: boolean }).held = held), held);
}

/** Ask and be answered. */
async function talk(tab: Tab, question: string, answer: string): Promise<void> {
  front.scripts.push(says(answer));
  await tab.ask(question);
}

function texts(tab: Tab): Promise<string[]> {
  return tab.page.locator("article .plain, article .markdown").allInnerTexts();
}

function titles(tab: Tab): Promise<string[]> {
  return tab.page.locator(".entry").allInnerTexts();
}

async function remove(tab: Tab, name: string): Promise<void> {
  await tab.page.locator(".list li", { hasText: name }).hover();
  await tab.page.getByRole("button", { name: `Delete ${name}` }).click();
  await tab.page.getByRole("button", { name: "Click again" }).click();
}

async function settings(tab: Tab): Promise<void> {
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  await tab.page.getByRole("dialog").waitFor();
}

async function close(tab: Tab): Promise<void> {
  await tab.page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
}

test("answers, a title, settings, presets and deletions survive a reload before they are stored", async () => {
  const tab = await open(front.url, { before: holdDatabase });
  await talk(tab, "forget me", "gone");
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await talk(tab, "one", "first");
  await talk(tab, "two", "second");
  await hold(tab);
  const second = tab.page.locator("article.user").nth(1);
  await second.getByRole("button", { name: "Delete, with" }).click();
  await second.getByRole("button", { name: "Click again" }).click();
  await talk(tab, "three", "third");
  await tab.page.locator(".list li", { hasText: "one" }).hover();
  await tab.page.getByRole("button", { name: "Rename one" }).click();
  await tab.page.getByLabel("Title").fill("Numbers");
  await tab.page.getByLabel("Title").press("Enter");
  await remove(tab, "forget me");
  await settings(tab);
  await tab.page.getByLabel("System prompt").fill("Be brief.");
  await tab.page.getByLabel("Name of a preset").fill("brief");
  await tab.page.getByRole("button", { name: "Save preset" }).click();
  await tab.page.getByRole("button", { name: "Use for new" }).click();
  await close(tab);
  await tab.page.reload();
  await eventually(() => texts(tab), ["one", "first", "three", "third"]);
  await eventually(() => titles(tab), ["Numbers"]);
  await talk(tab, "four", "fourth");
  assert.deepEqual((front.bodies.at(-1)!["messages"] as unknown[])[0], { role: "system", content: "Be brief." });
  await settings(tab);
  await tab.page.getByRole("button", { name: "brief", exact: true }).waitFor();
  await close(tab);
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await settings(tab);
  assert.equal(await tab.page.getByLabel("System prompt").inputValue(), "Be brief.", "of new conversations");
  await close(tab);
  // By now it is in the database, and is replayed no second time.
  await tab.page.reload();
  await eventually(() => titles(tab), ["Numbers"]);
  assert.deepEqual(await tab.page.evaluate(() => Object.keys(localStorage).filter((key) => key.startsWith("pocketvlm-journal"))), []);
  await tab.close();
});

test("what a closed tab has not stored is stored by another one, or by the next", async () => {
  const one = await open(front.url, { before: holdDatabase });
  await talk(one, "stays", "here");
  await one.page.getByRole("button", { name: "New conversation" }).first().click();
  const two = await open(front.url, { context: one.context });
  await eventually(() => titles(two), ["stays"]); // reading waits for other tabs' writing, which is held from now on
  await hold(one);
  await talk(one, "hello", "kept");
  await one.page.close({ runBeforeUnload: true });
  await two.page.locator(".entry", { hasText: "hello" }).click();
  await eventually(() => texts(two), ["hello", "kept"]);
  await two.page.goto("about:blank");
  const three = await open(front.url, { context: one.context });
  await three.page.locator(".entry", { hasText: "hello" }).click();
  await eventually(() => texts(three), ["hello", "kept"]);
  assert.deepEqual(two.faults, []);
  await three.close();
});

test("what another tab has deleted or changed is not brought back by a page that had not stored it", async () => {
  const one = await open(front.url, { before: holdDatabase });
  await talk(one, "stays", "here");
  await one.page.getByRole("button", { name: "New conversation" }).first().click();
  const two = await open(front.url, { context: one.context });
  await eventually(() => titles(two), ["stays"]); // reading waits for other tabs' writing, which is held from now on
  await hold(one);
  await talk(one, "hello", "answer");
  await eventually(() => titles(two), ["hello", "stays"]);
  await remove(two, "hello");
  await eventually(() => titles(one), ["stays"]);
  await talk(one, "again", "answer");
  await eventually(() => titles(two), ["again", "stays"]);
  await one.page.goto("about:blank"); // leaves a journal that knows of no deletion
  await remove(two, "again");
  await eventually(() => titles(two), ["stays"]);
  await one.page.goto(front.url);
  await eventually(() => titles(one), ["stays"]);
  await two.page.reload();
  await eventually(() => titles(two), ["stays"]);
  await eventually(() => stored(two, "turns"), 2);
  assert.deepEqual(two.faults, []);
  await one.close();
});

test("a question that is sent before the conversation is read belongs to it, and has its settings", async () => {
  front.answers.set("/v1/models", { object: "list", data: [{ id: "nano", max_model_len: 4096, parent: null }, { id: "birds", max_model_len: 4096, parent: "nano" }] });
  const tab = await open(front.url, { before: slowReads });
  await settings(tab);
  await tab.page.getByLabel("System prompt").fill("Be brief.");
  await close(tab);
  await talk(tab, "one", "first");
  await tab.page.evaluate(() => sessionStorage.setItem("slow", "1"));
  await tab.page.reload();
  await tab.page.locator("header").getByLabel("Model", { exact: true }).selectOption("birds");
  front.scripts.push(says("second"));
  await tab.send("two");
  assert.deepEqual(await texts(tab), []);
  assert.equal(await tab.composer.inputValue(), "two", "it stays in the field until it is sent");
  await tab.page.evaluate(() => (window as unknown as { read: () => void }).read());
  await eventually(() => texts(tab), ["one", "first", "two", "second"]);
  assert.equal((front.bodies.at(-1)!["messages"] as unknown[]).length, 4);
  assert.equal(front.bodies.at(-1)!["model"], "birds", "chosen before the settings were read");
  await tab.close();
});

/** Nothing is read from the database before the test says so, if this tab is to be slow. */
function slowReads(): void {
  if (!sessionStorage.getItem("slow")) return;
  const opened = new Promise<void>((resolve) => ((window as unknown as { read: () => void }).read = resolve));
  const success = Object.getOwnPropertyDescriptor(IDBRequest.prototype, "onsuccess")!;
  Object.defineProperty(IDBRequest.prototype, "onsuccess", {
    ...success,
    set(this: IDBRequest, heard: (event: Event) => void) {
      success.set!.call(this, this.transaction?.mode === "readwrite" ? heard : (event: Event) => void opened.then(() => heard.call(this, event)));
    },
  });
}

test("settings of a conversation that has not begun survive a reload", async () => {
  const tab = await open(front.url);
  await settings(tab);
  await tab.page.getByLabel("System prompt").fill("Be brief.");
  await close(tab);
  await tab.page.reload();
  await talk(tab, "one", "first");
  assert.deepEqual((front.bodies.at(-1)!["messages"] as unknown[])[0], { role: "system", content: "Be brief." });
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await talk(tab, "two", "second");
  assert.equal((front.bodies.at(-1)!["messages"] as unknown[]).length, 1);
  await tab.close();
});

test("an answer that another tab stops keeps all that was said", async () => {
  const one = await open(front.url);
  const gate = new Gate();
  front.scripts.push([...said("streams on "), { gate }, ...said("and on "), { gate: new Gate() }]);
  await one.send("go");
  await one.said("streams on");
  const two = await open(one.page.url(), { context: one.context });
  await two.page.locator("article.assistant[data-state=streaming]").waitFor();
  gate.open();
  await one.said("and on");
  await two.page.locator("button.send").click();
  for (const tab of [one, two]) {
    await tab.page.locator("article.assistant[data-state=cut]").waitFor();
    await eventually(() => texts(tab), ["go", "streams on and on"]);
  }
  await two.page.reload();
  await eventually(() => texts(two), ["go", "streams on and on"]);
  assert.deepEqual(two.faults, []);
  await one.close();
});

test("a draft's picture stays while its tab shows another page and another tab deletes", async () => {
  const one = await open(front.url);
  await talk(one, "old one", "old");
  await one.page.getByRole("button", { name: "New conversation" }).first().click();
  await one.attach("penguin.png");
  const two = await open(front.url, { context: one.context });
  await one.page.goto("about:blank");
  await remove(two, "old one");
  await eventually(() => titles(two), []);
  await eventually(() => stored(two, "blobs"), 1);
  await one.page.goto(front.url);
  await one.page.locator(".chip-name", { hasText: "penguin.png" }).waitFor();
  await one.ask("What is this?");
  assert.match(await one.answer().locator(".markdown").innerText(), /penguin/i);
  assert.deepEqual(two.faults, []);
  await one.close();
});

/** A database that the browser closes once, when the test says so. */
function closedOnce(): void {
  const transaction = IDBDatabase.prototype.transaction;
  IDBDatabase.prototype.transaction = function (...given: Parameters<typeof transaction>) {
    const page = window as unknown as { closes?: boolean };
    if (page.closes) this.close();
    page.closes = false;
    return transaction.apply(this, given);
  };
}

test("a database that the browser closes is opened again, and nothing is lost", async () => {
  const tab = await open(front.url, { before: closedOnce });
  await talk(tab, "one", "first");
  await tab.page.evaluate(() => void ((window as unknown as { closes: boolean }).closes = true));
  await talk(tab, "two", "second");
  assert.equal(await tab.page.locator(".notice").innerText(), "");
  await tab.page.reload();
  await eventually(() => texts(tab), ["one", "first", "two", "second"]);
  await tab.close();
});
