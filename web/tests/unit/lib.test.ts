// Tests of the page's pure parts: branches, events, coordinates, messages, mathematics.
import assert from "node:assert/strict";
import { test } from "node:test";
import { blocks, marked, plainMarkup } from "../../src/lib/blocks.ts";
import { calculate, runDemo } from "../../src/lib/demo.ts";
import { finishKey, stages, tokensPerSecond } from "../../src/lib/figures.ts";
import { bytes, clock, seconds, title } from "../../src/lib/format.ts";
import { readMessages, toMessages } from "../../src/lib/messages.ts";
import { mean, parseMetrics } from "../../src/lib/metrics.ts";
import { readPages } from "../../src/lib/pages.ts";
import { problemOf, readError } from "../../src/lib/problems.ts";
import { readTools, requestBody } from "../../src/lib/request.ts";
import { answerFault, schemaFault } from "../../src/lib/schema.ts";
import { search } from "../../src/lib/search.ts";
import { sharedPage } from "../../src/lib/share.ts";
import { plainText, readRegions, regionsAsJson } from "../../src/lib/special.ts";
import { EventReader } from "../../src/lib/sse.ts";
import { branches, children, group, newestLeaf, pathTo, subtree } from "../../src/lib/tree.ts";
import { PLAIN, type Timings, type Turn } from "../../src/lib/types.ts";
import { gridLines, readViews, viewCount } from "../../src/lib/views.ts";
import { en } from "../../src/text/en.ts";
import { zh } from "../../src/text/zh.ts";

function turn(id: string, parent: string | null, more: Partial<Turn> = {}): Turn {
  return { id, conversation: "c", parent, created: Number(id.replace(/\D/g, "")), role: "user", text: id, state: "done", ...more };
}

function map(...turns: Turn[]): Map<string, Turn> {
  return new Map(turns.map((each) => [each.id, each]));
}

test("a path follows parents, and ends at a missing or repeated one", () => {
  const turns = map(turn("1", null), turn("2", "1"), turn("3", "1"), turn("4", "3"), turn("5", "gone"));
  assert.deepEqual(pathTo(turns, "4").map(({ id }) => id), ["1", "3", "4"]);
  assert.deepEqual(pathTo(turns, "5").map(({ id }) => id), ["5"]);
  assert.deepEqual(pathTo(map(turn("1", "2"), turn("2", "1")), "1").length, 2);
});

test("branches, their newest leaf and what is deleted with a turn", () => {
  const after = children(map(turn("1", null), turn("2", "1"), turn("3", "1"), turn("4", "2")));
  assert.equal(newestLeaf(after, "1"), "3");
  assert.equal(newestLeaf(after, "2"), "4");
  assert.deepEqual(subtree(after, "1").sort(), ["1", "2", "3", "4"]);
  assert.equal(branches(after, turn("2", "1")).length, 2);
});

test("answers that were asked together are one branch", () => {
  const pair = [turn("2", "1", { group: "g" }), turn("3", "1", { group: "g" }), turn("4", "1")];
  const after = children(map(turn("1", null), ...pair));
  assert.deepEqual(branches(after, pair[1]!).map(({ id }) => id), ["3", "4"]);
  assert.equal(branches(after, pair[2]!).length, 2);
  assert.deepEqual(group(after, pair[0]!).map(({ id }) => id), ["2", "3"]);
});

test("events are the same at every split of the bytes", () => {
  const bytes = new TextEncoder().encode('data: {"a":"ü"}\n\n: ping\r\n\r\ndata:1\r\ndata: 2\r\n\r\ndata: [DONE]\n\n');
  for (let at = 0; at <= bytes.length; at++) {
    const reader = new EventReader();
    assert.deepEqual([...reader.feed(bytes.slice(0, at)), ...reader.feed(bytes.slice(at))], ['{"a":"ü"}', "1\n2", "[DONE]"], `split at ${at}`);
  }
});

test("coordinates become regions, other special tokens vanish", () => {
  const { text, regions } = readRegions("<|im_start|>A <ref>cat</ref><box>10 20 30 40</box> and <point>5,6</point><|im_end|>");
  assert.equal(text, "A \uE0000\uE001 and \uE0001\uE001");
  assert.deepEqual(regions[0], { kind: "box", name: "cat", points: [[10, 20], [30, 40]] });
  assert.deepEqual(regions[1]?.points, [[5, 6]]);
  assert.equal(plainText("<ref>a dog</ref> runs"), "a dog runs");
  assert.deepEqual(readRegions("<ref>a</ref><box>1 2 3 4</box>, <box>5 6 7 8</box> and <box>1 1 2 2</box>").regions.map(({ name }) => name), ["a", "a", "3"]);
  assert.deepEqual(readRegions("<box>1 2 3</box>").regions, []);
  assert.deepEqual(readRegions("<quad>0 0 9 0 9 9 0 2000</quad>").regions[0]?.points.at(-1), [0, 1000]);
});

test("a stream shows no half of a tag", () => {
  const whole = "See <ref>cat</ref><box>1 2 3 4</box>.";
  for (let at = 0; at < whole.length; at++) {
    assert.doesNotMatch(readRegions(whole.slice(0, at), true).text, /[<>]|\d \d/, whole.slice(0, at));
  }
  assert.equal(readRegions("1 < 2", true).text, "1 < 2");
});

test("regions as JSON have pixels where the size is known", () => {
  const { regions } = readRegions("<ref>x</ref><box>0 500 1000 1000</box>");
  assert.deepEqual(JSON.parse(regionsAsJson(regions, 200, 100))[0].pixels, [[0, 50], [200, 100]]);
});

test("messages go out and come in alike", () => {
  const image = { id: "i", kind: "image" as const, name: "a.png", mime: "image/png", size: 3, blob: "b", options: { downsample_mode: "4x" as const } };
  const path = [
    turn("1", null, { attachments: [image], text: "What?" }),
    turn("2", "1", { role: "assistant", text: "", reasoning: "hm", calls: [{ id: "k", name: "f", arguments: '{"a":1}' }] }),
    turn("3", "2", { role: "tool", callId: "k", text: "7" }),
  ];
  const messages = toMessages("Be brief.", path, () => ({ url: "data:image/png;base64,AAAA" }));
  const { system, turns } = readMessages(JSON.stringify({ messages }));
  assert.equal(system, "Be brief.");
  assert.deepEqual(turns[0]?.media, [{ kind: "image", url: "data:image/png;base64,AAAA", options: { downsample_mode: "4x" } }]);
  assert.deepEqual(turns[1]?.calls, path[1]!.calls);
  assert.equal(turns[1]?.reasoning, "hm");
  assert.equal(turns[2]?.callId, "k");
});

test("files that hold no messages are refused by name", () => {
  assert.throws(() => readMessages('{"a": 1}'), /no list of messages/);
  assert.throws(() => readMessages('[{"role": "robot", "content": "x"}]'), /messages\[0\]\.role/);
  assert.throws(() => readMessages('[{"role": "user", "content": [{"type": "audio"}]}]'), /content\[0\]\.type/);
});

test("a request has the settings that were given, and no others", () => {
  const plain = requestBody("m", PLAIN, []);
  assert.deepEqual(Object.keys(plain).sort(), ["messages", "model", "skip_special_tokens", "stream", "stream_options"]);
  const full = requestBody("m", { ...PLAIN, temperature: 0, mode: "4x", thinking: true, schema: "{}", tools: '{"name":"f"}' }, [], true);
  assert.equal(full["temperature"], 0);
  assert.deepEqual(full["mm_processor_kwargs"], { downsample_mode: "4x" });
  assert.deepEqual(full["tools"], [{ type: "function", function: { name: "f" } }]);
  assert.equal(full["continue_final_message"], true);
  assert.throws(() => readTools("[{}]"), /tools\[0\] has no name/);
});

test("failures become sentences of the page", () => {
  const error = readError(400, '{"error": {"message": "too long", "code": "context_length_exceeded"}}');
  assert.deepEqual(problemOf(error), { key: "error.context", detail: "too long" });
  assert.equal(problemOf(readError(429, "busy")).key, "error.busy");
  for (const status of [400, 401, 403, 404, 408, 413, 429, 500, 503]) assert.ok(problemOf(readError(status, "")).key in en);
});

test("schemas and answers are checked", () => {
  assert.equal(schemaFault('{"type": "object"}'), "");
  assert.notEqual(schemaFault("[1]"), "");
  assert.notEqual(schemaFault("{"), "");
  const schema = '{"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}';
  assert.equal(answerFault(schema, '{"n": 3}'), "");
  assert.match(answerFault(schema, '{"n": "3"}'), /n/);
});

test("mathematics is told from prices", () => {
  const html = (text: string): string => marked.parse(text, { async: false });
  assert.match(html("so $x^2$ is"), /tex-inline">x\^2</);
  assert.match(html("\\(a_b\\) and $$c$$"), /tex-inline">a_b<.*tex-inline">c</);
  assert.match(html("\\[\\frac{1}{2}\\]"), /tex-block">\\frac/);
  assert.doesNotMatch(html("it costs $5 or $10"), /tex/);
  assert.doesNotMatch(html("`$x$`"), /tex/);
});

test("blocks of Markdown are cut where nothing can change them", () => {
  assert.equal(blocks("# A\n\ntext\n\n```js\nlet a;\n\nlet b;\n```\n\n| a |\n|---|\n| 1 |\n").length, 4);
});

test("only plain tags stay markup", () => {
  const html = marked.parse('x<sub>2</sub><br>\n\n<table><tr><td colspan="2">a</td></tr></table>\n\n<img src=x onerror=alert(1)>', { async: false });
  assert.match(html, /<sub>2<\/sub><br>/);
  assert.match(html, /<td colspan="2">a<\/td>/);
  assert.doesNotMatch(html, /<img/);
  for (const harm of ["<script>", "<b onclick=x>", "<td style='x'>", "<details ontoggle=x", "<!-- <b", "<svg/onload=x>", "</script >"]) {
    assert.doesNotMatch(plainMarkup(harm), /<(?!b)/, harm);
  }
});

test("figures", () => {
  const timings: Timings = { queue: 0.1, media: 0, resize: 0, preprocess: 0.2, vision: 0.3, prefill: 0.1, decode: 1, ttft: 1, total: 3, cached_tokens: 0 };
  const answer = turn("1", null, { timings, usage: { prompt_tokens: 5, completion_tokens: 11 }, finish: "length", stop: "repetition" });
  assert.ok(Math.abs(stages(timings).at(-1)!.seconds - 0.3) < 1e-9);
  assert.equal(tokensPerSecond(answer), 5);
  assert.equal(finishKey(answer), "finish.repetition");
  assert.equal(tokensPerSecond({ ...answer, usage: { prompt_tokens: 5, completion_tokens: 1 } }), undefined);
});

test("metrics", () => {
  const samples = parseMetrics('# HELP a b\na 2\nb_sum 6\nb_count 3\nc{route="/x"} 1.5e3\nd NaN\n');
  assert.equal(samples.get("a"), 2);
  assert.equal(samples.get('c{route="/x"}'), 1500);
  assert.equal(mean(samples, "b"), 2);
  assert.equal(mean(samples, "a"), undefined);
});

test("views of images and videos", () => {
  const image = readViews({ images: [{ width: 9, height: 8, grid: [2, 3], overview_size: [4, 4], slice_size: [5, 5], tokens: 54 }], videos: [] })!;
  assert.equal(viewCount(image), 7);
  assert.deepEqual(gridLines(image.grid).rows, [50]);
  const video = readViews({ videos: [{ width: 9, height: 8, grid: null, overview_size: [4, 4], tokens: 9, frames: 20, fps: 10, seconds: 2, pictures: [[0], [5, 6]], times: [[0], [0.7, 0.9]] }] })!;
  assert.ok("pictures" in video);
  assert.equal(viewCount(video), 2);
  assert.deepEqual(video.times, [[0], [0.7, 0.9]]);
});

test("pages, numbers and words", () => {
  assert.deepEqual(readPages("1-3, 7,2", 9), [1, 2, 3, 7]);
  for (const wrong of ["", "0", "3-1", "10", "a", "1-100"]) assert.equal(readPages(wrong, wrong === "1-100" ? 200 : 9), undefined);
  assert.equal(seconds(0.0523), "52 ms");
  assert.deepEqual([125, 86_400, 3_660, 120].map(seconds), ["2 min 5 s", "24 h", "1 h 1 min", "2 min"]);
  assert.equal(bytes(1536), "1.5 KB");
  assert.equal(clock(65.5), "1:05.5");
  assert.equal(title("a  b\nc", 4), "a b…");
});

test("search wants every word, over all turns of a conversation", () => {
  const entries = [{ id: "1", text: "Red fox" }, { id: "1", text: "a river" }, { id: "2", text: "red" }];
  assert.deepEqual([...search(entries, "RED river").keys()], ["1"]);
});

test("the demonstration tools compute and refuse", () => {
  assert.equal(calculate("2*(3+4)^2/7-1"), 13);
  assert.equal(calculate("-2^2"), -4);
  assert.equal(runDemo("calculate", '{"expression": "1+"}')?.startsWith("error:"), true);
  assert.equal(runDemo("calculate", '{"expression": "process.exit()"}')?.startsWith("error:"), true);
  assert.equal(runDemo("other", "{}"), undefined);
});

test("a shared page has no place for markup in names", () => {
  const page = sharedPage("<script>", [{ role: "user", html: "<p>x</p>", pictures: [{ name: '"><img onerror=1>', url: "data:image/png;base64,AA" }] }]);
  assert.doesNotMatch(page, /<script>|<img onerror/);
});

test("sentences have the same places for values in each language", () => {
  const places = (text: string): string[] => (text.match(/\{\w+\}/g) ?? []).sort();
  for (const [key, text] of Object.entries(en)) assert.deepEqual(places(zh[key as keyof typeof en]), places(text), key);
});
