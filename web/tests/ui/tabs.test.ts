// The page in two tabs of one browser: each shows what the other stores, and nothing is overwritten.
import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually, Gate, open, said, says, setUp, stored, type Tab, until } from "./kit.ts";

const { front } = setUp();

function texts(tab: Tab): Promise<string[]> {
  return tab.page.locator("article .plain, article .markdown").allInnerTexts();
}

test("conversations, turns, titles and presets appear in the other tab", async () => {
  const one = await open(front.url);
  const two = await open(front.url, { context: one.context });
  front.scripts.push(says("first answer"), says("second answer"));
  await one.ask("first");
  await two.page.locator(".entry", { hasText: "first" }).click();
  await eventually(() => texts(two), ["first", "first answer"]);
  await two.ask("second");
  await eventually(() => texts(one), ["first", "first answer", "second", "second answer"]);
  await one.page.locator(".list li").hover();
  await one.page.getByRole("button", { name: "Rename first" }).click();
  await one.page.getByLabel("Title").fill("Renamed");
  await one.page.getByLabel("Title").press("Enter");
  await two.page.locator(".entry", { hasText: "Renamed" }).waitFor();
  await two.page.getByRole("button", { name: "Settings" }).first().click();
  await two.page.getByLabel("System prompt").fill("Be brief.");
  await two.page.getByLabel("Name of a preset").fill("brief");
  await two.page.getByRole("button", { name: "Save preset" }).click();
  await one.page.getByRole("button", { name: "Settings" }).first().click();
  await one.page.getByRole("button", { name: "brief", exact: true }).waitFor();
  await eventually(() => one.page.getByLabel("System prompt").inputValue(), "Be brief.");
  assert.deepEqual(two.faults, []);
  await one.close();
});

test("two tabs that ask at once: both answers are stored as branches, and each tab stays with its own", async () => {
  const one = await open(front.url);
  front.scripts.push(says("root"));
  await one.ask("start");
  const two = await open(one.page.url(), { context: one.context });
  await eventually(() => texts(two), ["start", "root"]);
  const gate = new Gate();
  front.scripts.push([...said("left "), { gate }, ...says("left end")], [...said("right "), { gate }, ...says("right end")]);
  await one.send("ask left");
  await until(() => front.scripts.length === 1);
  // The other tab's question goes to its end, which is this question's answer by now; it goes back to the root first.
  await two.page.locator("article.user", { hasText: "ask left" }).waitFor();
  await two.page.locator("article.user", { hasText: "ask left" }).getByRole("button", { name: "Edit" }).click();
  await two.page.getByLabel("Edit the question").fill("ask right");
  await two.page.getByRole("button", { name: "Ask again" }).click();
  await until(() => front.scripts.length === 0);
  gate.open();
  await one.said("left end");
  await two.said("right end");
  await eventually(() => texts(one), ["start", "root", "ask left", "left left end"]);
  await eventually(() => texts(two), ["start", "root", "ask right", "right right end"]);
  await eventually(() => one.page.locator("article.user .branches").last().innerText(), "1/2");
  await one.page.reload();
  await one.page.locator("article.user .branches").waitFor();
  await one.page.getByRole("button", { name: (await texts(one)).includes("ask left") ? "Next version" : "Previous version" }).click();
  await eventually(async () => (await texts(one)).length, 4);
  assert.deepEqual(two.faults, []);
  await one.close();
});

test("an answer that another tab streams is no cut one, can be stopped from here, and is deleted with its conversation", async () => {
  const one = await open(front.url);
  front.scripts.push([...said("streams on "), { gate: new Gate() }]);
  await one.send("go");
  await one.said("streams on");
  const two = await open(one.page.url(), { context: one.context });
  await two.page.locator("article.assistant[data-state=streaming]").waitFor();
  assert.equal(await two.page.getByRole("button", { name: "Continue" }).count(), 0, "it would be answered twice");
  await two.page.locator("button.send").click();
  await one.page.locator("article.assistant[data-state=cut]").waitFor();
  await two.page.locator("article.assistant[data-state=cut]").waitFor();
  front.scripts.push([...said("and on "), { gate: new Gate() }]);
  await one.page.getByRole("button", { name: "Continue" }).click();
  await one.said("and on");
  await two.page.locator(".list li").hover();
  await two.page.getByRole("button", { name: "Delete go" }).click();
  await two.page.getByRole("button", { name: "Click again" }).click();
  await one.page.getByText("Ask about pictures and videos").waitFor();
  await eventually(() => one.page.locator(".entry").count(), 0);
  // The tab that streamed does not store the answer again.
  await eventually(() => stored(one, "turns"), 0);
  assert.deepEqual(two.faults, []);
  await one.close();
});

test("deleting in one tab leaves the other's draft its picture", async () => {
  const one = await open(front.url);
  front.scripts.push(says("old"));
  await one.ask("old one");
  const two = await open(front.url, { context: one.context });
  await two.attach("penguin.png");
  await one.page.locator(".list li").hover();
  await one.page.getByRole("button", { name: "Delete old one" }).click();
  await one.page.getByRole("button", { name: "Click again" }).click();
  await eventually(() => two.page.locator(".entry").count(), 0);
  const answer = await two.ask("What is this?");
  assert.match(await answer.locator(".markdown").innerText(), /penguin/i);
  assert.deepEqual(two.faults, []);
  await one.close();
});

test("what is being typed stays when another tab's news come", async () => {
  const one = await open(front.url);
  front.scripts.push(says("first answer"), says("second answer"));
  await one.ask("first");
  const two = await open(one.page.url(), { context: one.context });
  await eventually(() => texts(two), ["first", "first answer"]);
  await one.page.locator(".list li").hover();
  await one.page.getByRole("button", { name: "Rename first" }).click();
  await one.page.getByLabel("Title").fill("My title");
  await two.page.getByRole("button", { name: "Settings" }).first().click();
  await two.page.getByLabel("Temperature").fill("0.5");
  await one.page.locator(".new").focus(); // the field of the title is left
  await two.page.getByRole("heading", { name: "My title" }).waitFor();
  assert.equal(await two.page.getByLabel("Temperature").inputValue(), "0.5");
  await two.page.getByLabel("Temperature").press("Enter");
  await two.page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await one.page.getByRole("button", { name: "Rename My title" }).click();
  await one.page.getByLabel("Title").fill("A better one");
  await two.ask("second");
  assert.equal(front.bodies.at(-1)!["temperature"], 0.5);
  await eventually(() => texts(one), ["first", "first answer", "second", "second answer"]);
  assert.equal(await one.page.getByLabel("Title").inputValue(), "A better one");
  await one.page.getByLabel("Title").press("Enter");
  await two.page.locator(".entry", { hasText: "A better one" }).waitFor();
  assert.deepEqual(two.faults, []);
  await one.close();
});
