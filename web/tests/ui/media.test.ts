// Images, videos and PDF files in a browser: every way in, what the model sees, options, order, uploads.
import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { join } from "node:path";
import { test } from "node:test";
import { eventually, EXAMPLES, Front, Gate, open, says, serveFetching, setUp, type Tab, until } from "./kit.ts";
import { pdfOf } from "./pdf.ts";

const { serving, front } = setUp();

/** Dispatch a drop or a paste with files. */
async function bring(tab: Tab, kind: "drop" | "paste", names: string[]): Promise<void> {
  const files = await Promise.all(names.map(async (name) => ({ name, data: (await readFile(join(EXAMPLES, name))).toString("base64") })));
  await tab.page.evaluate(
    ([kind, files]) => {
      const transfer = new DataTransfer();
      for (const { name, data } of files) {
        const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
        transfer.items.add(new File([bytes], name, { type: "image/png" }));
      }
      const event = kind === "drop" ? new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }) : new ClipboardEvent("paste", { clipboardData: transfer, bubbles: true, cancelable: true });
      document.body.dispatchEvent(event);
    },
    [kind, files] as const,
  );
}

function parts(front: Front): Record<string, unknown>[] {
  const messages = front.bodies.at(-1)!["messages"] as { content: Record<string, unknown>[] }[];
  return messages.findLast((message) => Array.isArray(message.content))!.content;
}

test("pictures come by drop and paste, in order, and are answered", async () => {
  const tab = await open(front.url);
  await bring(tab, "drop", ["penguin.png", "dog.png"]);
  await bring(tab, "paste", ["digit.png"]);
  await eventually(() => tab.page.locator(".chip-name").allInnerTexts(), ["penguin.png", "dog.png", "digit.png"]);
  await until(async () => /16x \d+ · 4x \d+/.test(await tab.page.locator(".chip .hint").first().innerText()));
  await tab.page.getByRole("button", { name: "Move dog.png forward" }).click();
  await eventually(() => tab.page.locator(".chip-name").allInnerTexts(), ["dog.png", "penguin.png", "digit.png"]);
  await tab.page.getByRole("button", { name: "Remove digit.png" }).click();
  await tab.shot("composer");
  const answer = await tab.ask("What is in the second image?");
  assert.match(await answer.locator(".markdown").innerText(), /penguin/i);
  await eventually(() => tab.page.locator("article.user .shot img").count(), 2);
  await tab.shot("conversation");
  await tab.close();
});

test("the views of a picture, their tokens in both modes, and options that reach the server", async () => {
  const tab = await open(front.url);
  await tab.attach("unicorn_large.jpg");
  await tab.page.getByRole("button", { name: "What the model sees of unicorn_large.jpg" }).click();
  const dialog = tab.page.getByRole("dialog");
  await dialog.getByText(/\d × \d slices of/).waitFor();
  // The two modes are counted one after the other.
  await until(async () => {
    const [low, high] = (await dialog.locator(".mode .big").allInnerTexts()).map(Number);
    return low! > 0 && high! > 2 * low!;
  });
  await tab.shot("views");
  await dialog.getByLabel("Slices at most").fill("1");
  await dialog.getByLabel("Slices at most").press("Enter");
  await dialog.getByText(/slices of/).waitFor({ state: "hidden" });
  await dialog.getByLabel("Detail", { exact: true }).selectOption("4x");
  await dialog.getByRole("button", { name: "Close" }).click();
  await tab.ask("What is this?");
  const image = parts(front)[0]!;
  assert.equal(image["downsample_mode"], "4x");
  assert.equal(image["max_slice_nums"], 1);
  await tab.close();
});

test("a video shows the frames that the model looks at, with times", async () => {
  const tab = await open(front.url);
  await tab.attach("penguin.mp4");
  await tab.page.getByRole("button", { name: "What the model sees of penguin.mp4" }).click();
  const dialog = tab.page.getByRole("dialog");
  await dialog.locator(".frames img").first().waitFor();
  const frames = await dialog.locator(".frames li").count();
  assert.match(await dialog.locator(".frames small").first().innerText(), /^0:0/);
  await dialog.getByLabel("Frames a second", { exact: true }).fill("4");
  await dialog.getByLabel("Frames a second", { exact: true }).press("Enter");
  await until(async () => (await dialog.locator(".frames li").count()) > frames);
  await tab.shot("video");
  await dialog.getByLabel("To second").fill("1");
  await dialog.getByLabel("To second").press("Enter");
  await dialog.getByRole("button", { name: "Close" }).click();
  await tab.ask("Which way does the penguin move?");
  const video = parts(front)[0]!;
  assert.equal(video["type"], "video_url");
  assert.equal(video["fps"], 4);
  assert.equal(video["end"], 1);
  await tab.close();
});

test("a draft survives a reload, and the deletion of a conversation", async () => {
  const tab = await open(front.url);
  front.scripts.push(says("old"));
  await tab.ask("old one");
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await tab.attach("penguin.png");
  await tab.composer.fill("What is this?");
  await tab.page.reload();
  await tab.page.locator(".chip-name", { hasText: "penguin.png" }).waitFor();
  await tab.page.locator(".list li", { hasText: "old one" }).hover();
  await tab.page.getByRole("button", { name: "Delete old one" }).click();
  await tab.page.getByRole("button", { name: "Click again" }).click();
  await until(async () => (await tab.page.locator(".entry").count()) === 0);
  await eventually(() => tab.composer.inputValue(), "What is this?");
  await tab.composer.press("Enter");
  await tab.page.locator("article.assistant[data-state=done]").waitFor();
  await tab.said("penguin");
  await eventually(() => tab.page.locator(".composer .chip").count(), 0);
  await tab.close();
});

test("pages of a PDF file become pictures", async () => {
  const tab = await open(front.url);
  await tab.page.locator(".composer input[type=file]").setInputFiles({ name: "paper.pdf", mimeType: "application/pdf", buffer: pdfOf(3) });
  const dialog = tab.page.getByRole("dialog");
  await dialog.getByText("Pages, of 3").waitFor();
  await dialog.getByRole("textbox").fill("4");
  await dialog.getByRole("alert").waitFor();
  await dialog.getByRole("textbox").fill("1, 3");
  await dialog.getByRole("button", { name: "Add pages (2)" }).click();
  await tab.page.locator(".chip-name", { hasText: "paper.pdf p. 3" }).waitFor();
  await eventually(() => tab.page.locator(".chip-name").allInnerTexts(), ["paper.pdf p. 1", "paper.pdf p. 3"]);
  await tab.ask("Describe this image.");
  assert.equal(parts(front).filter((part) => part["type"] === "image_url").length, 2);
  await tab.close();
});

test("two PDF files at once are asked about one after the other", async () => {
  const tab = await open(front.url);
  const files = ["a.pdf", "b.pdf"].map((name, index) => ({ name, mimeType: "application/pdf", buffer: pdfOf(2 + index) }));
  await tab.page.locator(".composer input[type=file]").setInputFiles(files);
  for (const name of ["a.pdf", "b.pdf"]) {
    const dialog = tab.page.getByRole("dialog", { name });
    await dialog.getByRole("textbox").fill("2");
    await dialog.getByRole("button", { name: "Add pages (1)" }).click();
  }
  await eventually(() => tab.page.locator(".chip-name").allInnerTexts(), ["a.pdf p. 2", "b.pdf p. 2"]);
  await tab.close();
});

test("files go to the composer again when an edited question leaves the page", async () => {
  const tab = await open(front.url);
  front.scripts.push(says("one"));
  await tab.ask("first");
  await tab.page.locator("article.user").getByRole("button", { name: "Edit" }).click();
  await tab.page.getByLabel("Edit the question").fill(" ");
  assert.ok(await tab.page.getByRole("button", { name: "Ask again" }).isDisabled(), "a question without words or files");
  await tab.page.getByRole("button", { name: "New conversation" }).first().click();
  await bring(tab, "paste", ["dog.png"]);
  await tab.page.locator(".composer .chip-name", { hasText: "dog.png" }).waitFor();
  await tab.close();
});

test("a hundred pictures at once, and a question that does not wait until all are counted", async () => {
  const tab = await open(front.url);
  const buffer = await readFile(join(EXAMPLES, "digit.png"));
  const files = Array.from({ length: 100 }, (_, index) => ({ name: `${index}.png`, mimeType: "image/png", buffer }));
  await tab.page.locator(".composer input[type=file]").setInputFiles(files);
  await tab.page.locator(".chip-name", { hasText: "99.png" }).waitFor();
  await eventually(() => tab.page.locator(".chip-name").allInnerTexts(), files.map(({ name }) => name));
  front.scripts.push(says("many"));
  await tab.ask("How many?");
  assert.equal(parts(front).length, 101);
  await tab.close();
});

test("an attachment of an old question is replaced, and the question asked again", async () => {
  const tab = await open(front.url);
  await tab.attach("penguin.png");
  await tab.ask("What is this?");
  const question = tab.page.locator("article.user");
  await question.getByRole("button", { name: "Edit" }).click();
  await question.getByRole("button", { name: "What the model sees of penguin.png" }).click();
  await tab.page.getByRole("dialog").locator("input[type=file]").setInputFiles(join(EXAMPLES, "dog.png"));
  await question.locator(".chip-name", { hasText: "dog.png" }).waitFor();
  await bring(tab, "paste", ["apple.png"]);
  await question.locator(".chip-name", { hasText: "apple.png" }).waitFor();
  await question.getByRole("button", { name: "Remove apple.png" }).click();
  await question.getByRole("button", { name: "Ask again" }).click();
  await tab.page.locator("article.assistant[data-state=done]").waitFor();
  await tab.said("dog");
  assert.equal(await question.locator(".branches").innerText(), "2/2");
  await tab.close();
});

test("addresses are fetched by the server, which refuses private ones", async () => {
  const tab = await open(front.url, { failures: true });
  await tab.page.getByRole("button", { name: "Add by address" }).click();
  await tab.page.getByRole("dialog").getByRole("textbox").fill(`${serving.url}ui/icon.svg`);
  await tab.page.getByRole("dialog").getByRole("button", { name: "Add", exact: true }).click();
  await tab.page.locator(".notice").getByText("is not on the public internet").waitFor();
  await tab.close();
});

test("pictures, videos and PDF files come by address, in the order of the addresses", async (context) => {
  const files: Record<string, Buffer> = { "/dog.png": await readFile(join(EXAMPLES, "dog.png")), "/clip": await readFile(join(EXAMPLES, "penguin.mp4")), "/one.pdf": pdfOf(1) };
  const gate = new Gate();
  const site = createServer((asked, answer) => void (asked.url === "/dog.png" ? gate.opened : Promise.resolve()).then(() => answer.end(files[asked.url ?? ""])));
  context.after(() => void site.close());
  await new Promise<void>((resolve) => site.listen(0, "127.0.0.1", resolve));
  const base = `http://127.0.0.1:${(site.address() as AddressInfo).port}`;
  const fetching = await serveFetching();
  const tab = await open(fetching.url, { failures: true });
  await tab.page.getByRole("button", { name: "Add by address" }).click();
  await tab.page.getByRole("dialog").getByRole("textbox").fill(Object.keys(files).map((path) => base + path).join("\n"));
  await tab.page.getByRole("dialog").getByRole("button", { name: "Add", exact: true }).click();
  await eventually(() => tab.page.locator(".chip-name").allInnerTexts(), ["clip", "one.pdf p. 1"]);
  gate.open();
  await eventually(() => tab.page.locator(".chip-name").allInnerTexts(), ["dog.png", "clip", "one.pdf p. 1"]);
  await tab.page.getByRole("button", { name: "Remove one.pdf p. 1" }).click();
  await tab.page.getByRole("button", { name: "Remove clip" }).click();
  const answer = await tab.ask("What is this?");
  assert.match(await answer.locator(".markdown").innerText(), /dog/i);
  await tab.close();
  await fetching.stop();
});

test("files of other kinds are refused by name, and markup in names stays text", async () => {
  const tab = await open(front.url, { failures: true });
  await tab.page.locator(".composer input[type=file]").setInputFiles({ name: "notes.docx", mimeType: "application/msword", buffer: Buffer.from("x") });
  await tab.page.locator(".notice").getByText("notes.docx is no image").waitFor();
  const name = "<img src=x onerror=alert(1)>.png";
  await tab.page.locator(".composer input[type=file]").setInputFiles({ name, mimeType: "image/png", buffer: await readFile(join(EXAMPLES, "dog.png")) });
  assert.equal(await tab.page.locator(".chip-name").innerText(), name);
  await tab.page.locator(".composer input[type=file]").setInputFiles({ name: "broken.png", mimeType: "image/png", buffer: Buffer.from("no picture") });
  await tab.page.locator(".notice").getByText(/identify|cannot|not a/i).waitFor();
  await until(async () => (await tab.page.locator(".chip").count()) === 1);
  front.scripts.push(says("ok"));
  await tab.ask("x");
  await tab.close();
});

test("the live camera gives a picture", async () => {
  const tab = await open(front.url);
  await tab.context.grantPermissions(["camera"]);
  await tab.page.getByRole("button", { name: "Camera" }).click();
  await tab.page.getByRole("button", { name: "Take a picture" }).click();
  await tab.page.locator(".chip-name", { hasText: "camera.jpg" }).waitFor();
  await tab.close();
});

/** Stands in for a camera whose first frame comes when the test says so. */
function lateCamera(): void {
  const canvas = document.createElement("canvas");
  canvas.width = 64;
  canvas.height = 48;
  const stream = canvas.captureStream(0);
  navigator.mediaDevices.getUserMedia = () => Promise.resolve(stream);
  (window as unknown as { firstFrame: () => void }).firstFrame = () => {
    const context = canvas.getContext("2d")!;
    const show = (): void => {
      context.fillStyle = context.fillStyle === "#ff0000" ? "#ff0001" : "#ff0000";
      context.fillRect(0, 0, 64, 48);
      (stream.getVideoTracks()[0] as CanvasCaptureMediaStreamTrack).requestFrame();
      requestAnimationFrame(show);
    };
    show();
  };
}

test("a camera gives no picture before its first frame", async () => {
  const tab = await open(front.url, { before: lateCamera });
  await tab.page.getByRole("button", { name: "Camera" }).click();
  const take = tab.page.getByRole("button", { name: "Take a picture" });
  await take.waitFor();
  assert.equal(await tab.page.locator("video.camera").evaluate((video: HTMLVideoElement) => video.videoWidth), 0);
  assert.equal(await take.isDisabled(), true, "it would take a picture without pixels");
  await tab.page.evaluate(() => (window as unknown as { firstFrame: () => void }).firstFrame());
  await take.click();
  await tab.page.locator(".chip-name", { hasText: "camera.jpg" }).waitFor();
  await tab.page.getByRole("button", { name: "What the model sees of camera.jpg" }).click();
  await tab.page.getByRole("dialog").getByText("64 × 48 pixels").waitFor();
  await tab.close();
});

test("on plain http from another machine: the phone's camera, and copying through a field", async (context) => {
  if (!front.remote) return context.skip("no network address");
  const tab = await open(front.remote);
  assert.equal(await tab.page.evaluate(() => window.isSecureContext), false);
  await tab.page.getByRole("button", { name: "Camera" }).click();
  await tab.page.getByRole("dialog").locator("input[capture]").setInputFiles(join(EXAMPLES, "dog.png"));
  await tab.page.locator(".chip-name", { hasText: "dog.png" }).waitFor();
  await tab.ask("What is this?");
  await tab.answer().getByRole("button", { name: "Copy" }).click();
  await tab.composer.press("Control+V");
  await until(async () => /dog/i.test(await tab.composer.inputValue()));
  await tab.close();
});
