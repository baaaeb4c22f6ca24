// The browser's two small storages. A browser may refuse them, or be full: values then stay until the page is closed.

export class SmallStorage {
  private readonly name: "localStorage" | "sessionStorage";
  private readonly held = new Map<string, string>();

  constructor(name: "localStorage" | "sessionStorage") {
    this.name = name;
  }

  get(key: string): string | null {
    const held = this.held.get(key);
    if (held !== undefined) return held;
    try {
      return globalThis[this.name].getItem(key);
    } catch {
      return null;
    }
  }

  set(key: string, value: string): void {
    try {
      globalThis[this.name].setItem(key, value);
      this.held.delete(key);
    } catch {
      // What is stored from before would come back at a reload.
      this.remove(key);
      this.held.set(key, value);
    }
  }

  /** The stored keys with a prefix. */
  keys(prefix: string): string[] {
    try {
      return Object.keys(globalThis[this.name]).filter((key) => key.startsWith(prefix));
    } catch {
      return [];
    }
  }

  remove(key: string): void {
    this.held.delete(key);
    try {
      globalThis[this.name].removeItem(key);
    } catch {
      // It was never stored.
    }
  }
}

export const local = new SmallStorage("localStorage");
export const session = new SmallStorage("sessionStorage");
