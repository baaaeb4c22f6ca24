// Conversations in a browser: asking, stopping, branches, editing, storage, import and export.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { eventually, Gate, open, PROGRAM, said, says, setUp, type Tab, until } from "./kit.ts";

const { front } = setUp();

async function saved(tab: Tab, label: string): Promise<string> {
  const [file] = await Promise.all([tab.page.waitForEvent("download"), tab.page.getByRole("button", { name: label }).click()]);
  return readFile((await file.path())!, "utf8");
}

test("a question is answered, with figures", async () => {
  const tab = await open(front.url);
  const answer = await tab.ask("hello");
  assert.ok((await answer.locator(".markdown").innerText()).length > 0);
  assert.match(await answer.locator(".figures summary").innerText(), /to first token · .*complete/);
  await answer.locator(".figures summary").click();
  assert.match(await answer.locator(".legend").innerText(), /prefill/);
  assert.equal(await tab.page.locator(".entry").innerText(), "hello");
  await tab.close();
});

test("an answer is stopped, stays, and is continued", async () => {
  const tab = await open(front.url);
  front.scripts.push([...said("one two three "), { gate: new Gate() }]);
  await tab.send("count");
  await tab.said("three");
  await tab.page.locator("button.send").click();
  await tab.page.locator("article.assistant[data-state=cut]").waitFor();
  const text = await tab.answer().locator(".markdown").innerText();
  front.scripts.push(says(" and four"));
  await tab.page.getByRole("button", { name: "Continue" }).click();
  await tab.said("and four");
  assert.ok((await tab.answer().locator(".markdown").innerText()).startsWith(text));
  const body = front.bodies.at(-1)!;
  assert.equal(body["continue_final_message"], true);
  assert.equal((body["messages"] as { role: string }[]).at(-1)!.role, "assistant");
  await tab.close();
});

test("answers, questions and answers' texts branch; deleting leads to another branch", async () => {
  const tab = await open(front.url);
  front.scripts.push(says("first"), says("second"), says("third"));
  await tab.ask("question");
  await tab.answer().getByRole("button", { name: "Answer again" }).click();
  await tab.said("second");
  assert.equal(await tab.answer().locator(".branches").innerText(), "2/2");
  await tab.answer().getByRole("button", { name: "Previous version" }).click();
  await tab.said("first");
  await tab.answer().getByRole("button", { name: "Edit" }).click();
  await tab.page.getByLabel("Edit the answer").fill("by hand");
  await tab.page.getByRole("button", { name: "Save as a new version" }).click();
  await tab.said("by hand");
  assert.equal(await tab.answer().locator(".branches").innerText(), "3/3");
  const question = tab.page.locator("article.user");
  await question.getByRole("button", { name: "Edit" }).click();
  await tab.page.getByLabel("Edit the question").fill("another question");
  await tab.page.getByRole("button", { name: "Ask again" }).click();
  await tab.said("third");
  assert.equal(await question.locator(".branches").innerText(), "2/2");
  await question.getByRole("button", { name: "Delete, with" }).click();
  await question.getByRole("button", { name: "Click again" }).click();
  await tab.said("by hand");
  await tab.close();
});

test("conversations survive a reload; they are found, renamed and deleted", async () => {
  const tab = await open(front.url);
  front.scripts.push(says("The capital is Paris."), says("Bananas are yellow."));
  await tab.ask("France?");
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await tab.ask("Fruit?");
  await tab.page.reload();
  await tab.said("Bananas");
  await tab.page.getByLabel("Search").fill("capital paris");
  await until(async () => (await tab.page.locator(".entry").count()) === 1);
  await tab.page.locator(".entry").click();
  await tab.said("Paris");
  await tab.page.getByLabel("Search").fill("");
  await tab.page.locator(".list li", { hasText: "France?" }).hover();
  await tab.page.getByRole("button", { name: "Rename France?" }).click();
  await tab.page.getByLabel("Title").fill("Geography");
  await tab.page.getByLabel("Title").press("Enter");
  await tab.page.locator(".entry", { hasText: "Geography" }).waitFor();
  await tab.page.locator(".list li", { hasText: "Fruit?" }).hover();
  await tab.page.getByRole("button", { name: "Delete Fruit?" }).click();
  await tab.page.getByRole("button", { name: "Click again" }).click();
  await until(async () => (await tab.page.locator(".entry").count()) === 1);
  await tab.close();
});

test("an answer that a reload cut off can be continued", async () => {
  const tab = await open(front.url);
  front.scripts.push([...said("a long story "), { gate: new Gate() }]);
  await tab.send("tell");
  await tab.said("story");
  await tab.page.reload();
  await tab.page.locator("article.assistant[data-state=cut]").waitFor();
  front.scripts.push(says(" the end"));
  await tab.page.getByRole("button", { name: "Continue" }).click();
  await tab.said("the end");
  assert.match(await tab.answer().locator(".markdown").innerText(), /^a long story/);
  await tab.close();
});

test("export and import carry a conversation with its picture and system prompt", async () => {
  const tab = await open(front.url);
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  await tab.page.getByLabel("System prompt").fill("Be brief.");
  await tab.page.getByRole("button", { name: "Close" }).last().click();
  await tab.attach("penguin.png");
  await tab.ask("What is this?");
  const text = await saved(tab, "Export as messages JSON");
  const asked = tab.page.url();
  const messages = JSON.parse(text) as { role: string; content: unknown }[];
  assert.deepEqual(messages.map(({ role }) => role), ["system", "user", "assistant"]);
  assert.match(JSON.stringify(messages[1]), /data:image\/png;base64,/);
  await tab.page.locator(".sidebar input[type=file]").setInputFiles({ name: "talk.json", mimeType: "application/json", buffer: Buffer.from(text) });
  await eventually(() => tab.page.locator(".entry").count(), 2);
  await until(() => tab.page.url() !== asked);
  await tab.page.locator("article.user .shot img").waitFor();
  assert.equal(await saved(tab, "Export as messages JSON"), text);
  await tab.page.locator(".sidebar input[type=file]").setInputFiles({ name: "bad.json", mimeType: "application/json", buffer: Buffer.from('{"a":1}') });
  await tab.page.getByText("bad.json cannot be imported: there is no list of messages").waitFor();
  const page = await saved(tab, "Save as a page to share");
  assert.match(page, /Content-Security-Policy.*default-src 'none'/);
  assert.match(page, /<img alt="[^"]*" src="data:image/);
  assert.doesNotMatch(page, /<script/);
  await tab.close();
});

test("the terminal's chat reads what the page exports, and the page what the chat saves", async () => {
  const tab = await open(front.url);
  await tab.attach("penguin.png");
  await tab.ask("What is this?");
  const folder = await mkdtemp(join(tmpdir(), "page-"));
  await writeFile(join(folder, "talk.json"), await saved(tab, "Export as messages JSON"));
  const commands = `/load ${join(folder, "talk.json")}\nWhich colour is it?\n/save ${join(folder, "more.json")}\n`;
  const chat = spawnSync(PROGRAM, ["chat", "nano", "--quiet", "--threads", "1"], { input: commands, encoding: "utf8" });
  assert.equal(chat.status, 0, chat.stderr);
  await tab.page.locator(".sidebar input[type=file]").setInputFiles(join(folder, "more.json"));
  await tab.page.locator("article.user", { hasText: "Which colour" }).waitFor();
  await tab.page.locator("article.user .shot img").waitFor();
  assert.equal(await tab.page.locator("article").count(), 4);
  await rm(folder, { recursive: true });
  await tab.close();
});

test("a conversation of 500 turns opens, scrolls and goes on", async () => {
  const tab = await open(front.url);
  const messages = Array.from({ length: 500 }, (_, index) => ({ role: index % 2 ? "assistant" : "user", content: `turn **${index}** with $x^${index % 9}$\n\n- item\n- item` }));
  await tab.page.locator(".sidebar input[type=file]").setInputFiles({ name: "long.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(messages)) });
  await tab.said("turn 499");
  assert.ok((await tab.page.locator("article").count()) < 100);
  await tab.page.getByRole("button", { name: /Show earlier turns/ }).click();
  await until(async () => (await tab.page.locator("article").count()) >= 80);
  front.scripts.push(says("still here"));
  await tab.send("go on");
  await tab.said("still here");
  assert.equal((front.bodies.at(-1)!["messages"] as unknown[]).length, 501);
  await tab.close();
});
