// Adapters: the server lists them with `parent`; people choose one, and compare it with the model.
import assert from "node:assert/strict";
import { test } from "node:test";
import { eventually, open, says, setUp } from "./kit.ts";

const { front } = setUp();

const MODELS = {
  object: "list",
  data: [
    { id: "nano", object: "model", max_model_len: 4096, parent: null },
    { id: "invoices", object: "model", max_model_len: 4096, parent: "nano" },
    { id: "birds", object: "model", max_model_len: 4096, parent: "nano" },
  ],
};

test("without adapters there is nothing to choose", async () => {
  const tab = await open(front.url);
  await tab.page.locator("span.model-name", { hasText: "nano" }).waitFor();
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  assert.equal(await tab.page.getByLabel("Who answers").count(), 0);
  await tab.close();
});

test("a chosen adapter answers, counts tokens, and stays with its conversation", async () => {
  front.answers.set("/v1/models", MODELS);
  const tab = await open(front.url, { failures: true }); // the server behind has no adapters to count with
  const choice = tab.page.locator("header").getByLabel("Model", { exact: true });
  await choice.selectOption("invoices");
  const [counted] = await Promise.all([tab.page.waitForRequest(/tokenize$/), tab.attach("penguin.png")]);
  assert.equal((counted.postDataJSON() as { model: string }).model, "invoices", "an adapter may cut pictures in its own way");
  front.scripts.push(says("a bill"), says("plain"), says("a bill again"));
  const answer = await tab.ask("What is it?");
  assert.equal(front.bodies.at(-1)!["model"], "invoices");
  assert.match(await answer.locator(".figures summary").innerText(), /^invoices · /);
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await tab.ask("And now?");
  assert.equal(front.bodies.at(-1)!["model"], "nano");
  await tab.page.locator(".entry", { hasText: "What is it?" }).click();
  await eventually(() => choice.inputValue(), "invoices");
  await tab.page.reload();
  await tab.ask("Sure?");
  assert.equal(front.bodies.at(-1)!["model"], "invoices");
  await tab.shot("adapter");
  await tab.close();
});

test("the model and an adapter answer side by side, and are asked again as they were", async () => {
  front.answers.set("/v1/models", MODELS);
  const tab = await open(front.url);
  await tab.page.locator(".composer").getByRole("button", { name: "Compare" }).click();
  const dialog = tab.page.getByRole("dialog");
  await dialog.getByLabel("What differs").selectOption("adapter");
  await dialog.getByLabel("Who answers").nth(1).selectOption("birds");
  await tab.shot("compare-adapter");
  await dialog.getByRole("button", { name: "Compare from now on" }).click();
  front.scripts.push(says("an animal"), says("a penguin"), says("an animal"), says("a penguin"));
  await tab.send("What is this?");
  await eventually(() => tab.page.locator(".side[data-state=done]").count(), 2);
  await eventually(() => tab.page.locator(".side header b").allInnerTexts(), ["nano", "birds"]);
  await tab.page.getByRole("button", { name: "End", exact: true }).click();
  await tab.page.locator(".compared").getByRole("button", { name: "Answer again" }).click();
  await eventually(() => tab.page.locator(".branches").allInnerTexts(), ["2/2"]);
  await eventually(() => tab.page.locator(".side[data-state=done]").count(), 2);
  assert.deepEqual(front.bodies.slice(-4).map((body) => body["model"]).sort(), ["birds", "birds", "nano", "nano"]);
  assert.equal(front.bodies.at(-1)!["mm_processor_kwargs"], undefined, "only the adapter differs");
  await tab.close();
});

test("an adapter that the server no longer has is named, and another can be chosen", async () => {
  front.answers.set("/v1/models", MODELS);
  const tab = await open(front.url, { failures: true });
  const choice = tab.page.locator("header").getByLabel("Model", { exact: true });
  await choice.selectOption("birds");
  front.scripts.push(says("a bird"));
  await tab.ask("What is it?");
  front.answers.clear();
  await tab.page.reload();
  await tab.said("a bird");
  await tab.send("Sure?");
  await tab.page.getByText("The server does not have this model or adapter.").waitFor();
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  const own = tab.page.getByRole("dialog").getByLabel("Who answers");
  assert.equal(await own.locator("option:checked").innerText(), "birds (not on this server)");
  await own.selectOption("");
  await tab.page.getByRole("button", { name: "Close" }).last().click();
  front.scripts.push(says("yes"));
  await tab.page.getByRole("button", { name: "Try again" }).click();
  await tab.said("yes");
  assert.equal(front.bodies.at(-1)!["model"], "nano");
  await tab.close();
});
