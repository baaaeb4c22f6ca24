// Scripts that run in a page before its own code, and make its database, its server and other tabs slow.

/** No transaction that writes ends while `window.held` is set; one that has not ended when the page goes is lost. */
export function holdDatabase(): void {
  const isHeld = (): boolean => (window as unknown as { held?: boolean }).held ?? false;
  const transaction = IDBDatabase.prototype.transaction;
  IDBDatabase.prototype.transaction = function (...given: Parameters<typeof transaction>) {
    const made = transaction.apply(this, given);
    if (made.mode !== "readwrite" || !isHeld()) return made;
    let isCommitted = false;
    made.commit = () => void (isCommitted = true);
    // A transaction goes on as long as it is asked for something.
    const ask = (): void => {
      if (isHeld()) made.objectStore(made.objectStoreNames[0]!).count().onsuccess = ask;
      else if (isCommitted) IDBTransaction.prototype.commit.call(made);
    };
    ask();
    return made;
  };
}

/** Each answer of the database, the server and other tabs comes up to 300 ms later. seed: of the random numbers. */
export function delays(seed: number): void {
  const random = (): number => {
    seed = (seed + 0x6d2b79f5) | 0;
    const mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    return ((mixed ^ (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const delay = (): number => (random() < 0.5 ? 0 : random() * 300);
  const later = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, delay()));

  const transaction = IDBDatabase.prototype.transaction;
  IDBDatabase.prototype.transaction = function (...given: Parameters<typeof transaction>) {
    const made = transaction.apply(this, given);
    if (made.mode !== "readwrite") return made;
    const end = performance.now() + delay();
    let isCommitted = false;
    made.commit = () => void (isCommitted = true);
    const ask = (): void => {
      if (performance.now() < end) made.objectStore(made.objectStoreNames[0]!).count().onsuccess = ask;
      else if (isCommitted) IDBTransaction.prototype.commit.call(made);
    };
    ask();
    return made;
  };
  const success = Object.getOwnPropertyDescriptor(IDBRequest.prototype, "onsuccess")!;
  Object.defineProperty(IDBRequest.prototype, "onsuccess", {
    ...success,
    set(this: IDBRequest, heard: (event: Event) => void) {
      // A transaction that writes ends where nothing is asked for at once.
      const isWriting = this.transaction?.mode === "readwrite";
      success.set!.call(this, isWriting ? heard : (event: Event) => setTimeout(() => heard.call(this, event), delay()));
    },
  });

  const ask = window.fetch;
  window.fetch = async (...given) => {
    await later();
    const answer = await ask(...given);
    await later();
    return answer;
  };

  const listen = BroadcastChannel.prototype.addEventListener;
  BroadcastChannel.prototype.addEventListener = function (this: BroadcastChannel, kind: string, heard: EventListenerOrEventListenerObject) {
    let last = Promise.resolve();
    // Messages stay in order.
    listen.call(this, kind, (event: Event) => void (last = last.then(later).then(() => (heard as EventListener).call(this, event))));
  } as typeof listen;
}
