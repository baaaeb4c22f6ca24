// The built-in demonstration tools: a calculator and a clock, which the page runs itself.

export const DEMO_TOOLS = [
  {
    type: "function",
    function: {
      name: "calculate",
      description: "The value of an arithmetic expression.",
      parameters: { type: "object", properties: { expression: { type: "string" } }, required: ["expression"] },
    },
  },
  {
    type: "function",
    function: { name: "current_time", description: "The date and time now.", parameters: { type: "object", properties: {} } },
  },
];

/** The result of a demonstration tool, undefined for any other tool. */
export function runDemo(name: string, json: string): string | undefined {
  if (name === "current_time") return new Date().toString();
  if (name !== "calculate") return undefined;
  try {
    const given = JSON.parse(json) as { expression?: unknown };
    return String(calculate(String(given.expression ?? "")));
  } catch (error) {
    return `error: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Numbers, + - * / ^ and parentheses. Throws an Error for anything else. */
export function calculate(text: string): number {
  const tokens = text.match(/\d+(?:\.\d+)?|[-+*/^()]|\S/g) ?? [];
  let at = 0;
  const sum = (): number => {
    let value = product();
    while (tokens[at] === "+" || tokens[at] === "-") value = tokens[at++] === "+" ? value + product() : value - product();
    return value;
  };
  const product = (): number => {
    let value = power();
    while (tokens[at] === "*" || tokens[at] === "/") value = tokens[at++] === "*" ? value * power() : value / power();
    return value;
  };
  const power = (): number => {
    if (tokens[at] === "-") {
      at += 1;
      return -power();
    }
    const base = atom();
    if (tokens[at] !== "^") return base;
    at += 1;
    return base ** power();
  };
  const atom = (): number => {
    const token = tokens[at++];
    if (token === "(") {
      const value = sum();
      if (tokens[at++] !== ")") throw new Error("a parenthesis is not closed");
      return value;
    }
    const value = Number(token);
    if (token === undefined || Number.isNaN(value)) throw new Error(`${token ?? "the end"} is not expected here`);
    return value;
  };
  const value = sum();
  if (at < tokens.length) throw new Error(`${tokens[at]} is not expected here`);
  return value;
}
