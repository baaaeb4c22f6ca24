// The frame in a browser: key, prefix, restart, phones, colours, languages, accessibility, the server page.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { after, test } from "node:test";
import { closeBrowser, eventually, Front, Gate, open, says, serve, until, type Tab } from "./kit.ts";

after(closeBrowser);

/** The serious findings of axe on the page as it is. */
async function findings(tab: Tab): Promise<string[]> {
  const source = await readFile(createRequire(import.meta.url).resolve("axe-core/axe.min.js"), "utf8");
  // evaluate() is not bound by the page's policy.
  await tab.page.evaluate(source);
  const found = await tab.page.evaluate(async () => {
    const axe = (window as unknown as { axe: { run: (options: object) => Promise<{ violations: { id: string; impact: string; nodes: { html: string }[] }[] }> } }).axe;
    return (await axe.run({ resultTypes: ["violations"] })).violations;
  });
  return found.filter(({ impact }) => impact === "serious" || impact === "critical").map(({ id, nodes }) => `${id}: ${nodes[0]?.html.slice(0, 200)}`);
}

test("a key is asked for once, kept for the session, and a wrong one refused", async () => {
  const serving = await serve([], { POCKETVLM_API_KEY: "a-secret-key" });
  const tab = await open(serving.url, { failures: true });
  const dialog = tab.page.getByRole("dialog");
  await dialog.getByText("This server needs a key").waitFor();
  await dialog.getByRole("textbox").fill("another-key");
  await dialog.getByRole("button", { name: "Unlock" }).click();
  await dialog.getByText("does not accept this key").waitFor();
  await tab.shot("key");
  await dialog.getByRole("textbox").fill("a-secret-key");
  await dialog.getByRole("button", { name: "Unlock" }).click();
  await tab.page.locator(".model-name", { hasText: "nano" }).waitFor();
  await tab.ask("hello");
  await tab.page.reload();
  await tab.ask("hello again");
  assert.equal(await dialog.count(), 0);
  assert.equal(await tab.page.evaluate(() => JSON.stringify(localStorage).includes("secret")), false);
  await tab.close();
  await serving.stop();
});

for (const removes of [false, true]) {
  test(`behind a prefix that the proxy ${removes ? "removes" : "leaves"}`, async () => {
    const serving = await serve(["--root-path", "/vision"]);
    const front = await new Front(serving, "/vision").start();
    if (removes) front.removesPrefix = true;
    const tab = await open(front.url);
    await tab.attach("penguin.png");
    const answer = await tab.ask("What is this?");
    assert.match(await answer.locator(".markdown").innerText(), /penguin/i);
    await tab.close();
    front.stop();
    await serving.stop();
  });
}

test("a server that goes away and comes back: the answer goes on, uploads are made again", async () => {
  const serving = await serve();
  const front = await new Front(serving).start();
  const tab = await open(front.url, { failures: true });
  await tab.page.locator(".composer input[type=file]").setInputFiles({ name: "noise.png", mimeType: "image/png", buffer: await noise(tab) });
  await tab.page.locator(".chip-name", { hasText: "noise.png" }).waitFor();
  await tab.ask("What is this?");
  assert.match(JSON.stringify(front.bodies.at(-1)), /file_id/);
  await serving.stop();
  const gate = new Gate();
  front.scripts.push([{ delta: { content: "Half of it, " } }, { gate, cut: true }]);
  await tab.send("And now?");
  await tab.said("Half of it,"); // a browser drops what it has not read yet when the connection is cut
  gate.open();
  await tab.page.getByText("The server does not answer. The page goes on").first().waitFor();
  front.scripts.push(says("then the rest."));
  await serving.start();
  await tab.said("Half of it, then the rest.");
  await tab.page.locator(".banner").waitFor({ state: "hidden" });
  const before = front.bodies.length;
  await tab.ask("Once more?");
  assert.equal(front.bodies.length, before + 2, "the first request names a file that the new server does not have");
  await tab.close();
  front.stop();
  await serving.stop();
});

/** A picture too large to travel inside a request. */
async function noise(tab: Tab): Promise<Buffer> {
  const data = await tab.page.evaluate(() => {
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 300;
    const context = canvas.getContext("2d")!;
    const pixels = context.createImageData(300, 300);
    pixels.data.forEach((_, index) => (pixels.data[index] = index % 4 === 3 ? 255 : Math.random() * 255));
    context.putImageData(pixels, 0, 0);
    return canvas.toDataURL("image/png").split(",")[1]!;
  });
  return Buffer.from(data, "base64");
}

test("phones, dark colours, keyboard, labels, Chinese, and the server page", async () => {
  const serving = await serve();
  const front = await new Front(serving).start();
  const phone = await open(front.url, { width: 360, height: 740 });
  await phone.attach("penguin.png");
  front.scripts.push(says("A penguin, as a table:\n\n| a very long heading | another very long heading | third |\n|---|---|---|\n| 1 | 2 | 3 |\n\n```\na line of code that is much longer than the width of a phone allows\n```"));
  await phone.ask("What is this?");
  await eventually(() => phone.page.evaluate(() => document.documentElement.scrollWidth), 360);
  await phone.shot("phone");
  await phone.page.getByRole("button", { name: "Conversations" }).click();
  await phone.page.locator(".entry").first().waitFor();
  await phone.shot("phone-list");
  await phone.close();

  const tab = await open(front.url, { dark: true });
  assert.deepEqual(await findings(tab), []);
  await tab.attach("penguin.png");
  front.scripts.push(says("# A penguin\n\nWith `code` and [a link](https://example.com)."));
  await tab.ask("What is this?");
  assert.deepEqual(await findings(tab), []);
  await tab.shot("dark");
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  assert.deepEqual(await findings(tab), []);
  await tab.shot("settings");
  await tab.page.getByLabel("Colours").selectOption("light");
  assert.deepEqual(await findings(tab), []);
  await tab.page.getByLabel("Language").selectOption("zh");
  await tab.page.getByText("系统提示").waitFor();
  await tab.page.keyboard.press("Escape");
  await tab.page.getByRole("dialog").waitFor({ state: "detached" });
  await tab.shot("chinese");
  assert.equal(await tab.page.evaluate(() => document.documentElement.lang), "zh-Hans");
  await tab.page.getByRole("button", { name: "服务器" }).click();
  await tab.page.locator(".tile").first().waitFor();
  await tab.page.locator(".facts").nth(2).waitFor();
  assert.deepEqual(await findings(tab), []);
  await tab.shot("server");
  await until(async () => Number((await tab.page.locator(".tile .big").last().innerText()).replace(/\D/g, "")) >= 0);
  await tab.close();

  const keys = await open(front.url);
  await keys.page.locator(".composer > textarea:focus").waitFor();
  await keys.page.keyboard.press("Tab");
  await keys.page.locator(".composer button:focus").and(keys.page.getByRole("button", { name: /Add images/ })).waitFor();
  front.scripts.push(says("yes"));
  await keys.composer.focus();
  await keys.page.keyboard.type("works without a mouse?");
  await keys.page.keyboard.press("Enter");
  await keys.said("yes");
  await keys.close();
  front.stop();
  await serving.stop();
});
