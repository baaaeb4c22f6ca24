// Measures the page: time to first paint, and the main thread's time for a token at 100 tokens a second.
// `python benchmarks/page.py` builds and runs it. The last line is JSON.
import { cpus } from "node:os";
import { closeBrowser, Front, open, serve, type Step } from "../ui/kit.ts";

const RUNS = 7;
const STREAMS = 3;
const TOKENS = 600;
const WORDS = ["The ", "quick ", "**brown** ", "fox, ", "`jumps` ", "over ", "the ", "lazy ", "dog.\n\n", "- item\n", "$x^2$ "];

const serving = await serve();
const front = await new Front(serving).start();

const paints: number[] = [];
for (let run = 0; run < RUNS; run++) {
  const tab = await open(front.url);
  await tab.page.locator(".composer").waitFor();
  paints.push(await tab.page.evaluate(() => performance.getEntriesByName("first-contentful-paint")[0]!.startTime));
  await tab.close();
}

const costs: number[] = [];
const rates: number[] = [];
for (let run = 0; run < STREAMS; run++) {
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
  await tab.send("write");
  await tab.page.locator("article.assistant[data-state=done]").waitFor();
  rates.push(TOKENS / ((Date.now() - began) / 1000));
  costs.push(((await busy()) - before) * 1000 / TOKENS);
  await tab.close();
}
front.stop();
await closeBrowser();
await serving.stop();

const ascending = (list: number[]): number[] => list.sort((a, b) => a - b);
const said = (list: number[], digits: number): string => `median ${list[list.length >> 1]!.toFixed(digits)} ms, ${list[0]!.toFixed(digits)} to ${list.at(-1)!.toFixed(digits)} ms`;
ascending(paints);
ascending(costs);
console.log(`first paint: ${said(paints, 0)} in ${RUNS} new profiles`);
console.log(`${TOKENS} tokens at ${ascending(rates)[STREAMS >> 1]!.toFixed(0)} a second: ${said(costs, 2)} of the main thread for each, in ${STREAMS} answers`);
console.log(JSON.stringify({ cpu: cpus()[0]?.model, first_paint_ms: paints.map(Math.round), main_thread_ms_per_token: costs.map((cost) => Number(cost.toFixed(3))), tokens_per_second: rates.map(Math.round) }));
