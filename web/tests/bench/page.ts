// Measures the page: time to first paint, and the main thread's time for a token at 100 tokens a second.
// `python benchmarks/page.py` builds and runs it. The last line is JSON.
import { closeBrowser, Front, open, serve, type Step } from "../ui/kit.ts";

const RUNS = 7;
const TOKENS = 600;
const WORDS = ["The ", "quick ", "**brown** ", "fox, ", "`jumps` ", "over ", "the ", "lazy ", "dog.\n\n", "- item\n", "$x^2$ "];

const serving = await serve();
const front = await new Front(serving.port).start();

const paints: number[] = [];
for (let run = 0; run < RUNS; run++) {
  const tab = await open(front.url);
  await tab.page.locator(".composer").waitFor();
  paints.push(await tab.page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]!.startTime));
  await tab.close();
}

const tab = await open(front.url);
const session = await tab.context.newCDPSession(tab.page);
await session.send("Performance.enable", { timeDomain: "threadTicks" }); // the time that the thread ran, not that it waited for a processor
const busy = async (): Promise<number> => {
  const { metrics } = await session.send("Performance.getMetrics");
  return metrics.find(({ name }) => name === "TaskDuration")!.value;
};
const steps: Step[] = Array.from({ length: TOKENS }, (_, index) => ({ delta: { content: WORDS[index % WORDS.length]! }, pause: 10 }));
front.scripts.push([...steps, { finish: "stop" }]);
const before = await busy();
const began = Date.now();
await tab.ask("write");
const seconds = (Date.now() - began) / 1000;
const each = ((await busy()) - before) / TOKENS;
await tab.close();
front.stop();
await closeBrowser();
await serving.stop();

paints.sort((a, b) => a - b);
console.log(`first paint: median ${paints[RUNS >> 1]!.toFixed(0)} ms, ${paints[0]!.toFixed(0)} to ${paints.at(-1)!.toFixed(0)} ms in ${RUNS} new profiles`);
console.log(`${TOKENS} tokens at ${(TOKENS / seconds).toFixed(0)} a second: ${(each * 1000).toFixed(2)} ms of the main thread for each`);
console.log(JSON.stringify({ first_paint_ms: paints.map(Math.round), main_thread_ms_per_token: Number((each * 1000).toFixed(3)), tokens_per_second: Math.round(TOKENS / seconds) }));
