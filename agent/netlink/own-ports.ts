// Ports of the sockets behind one NetlinkSocket that have had an answer: notifications of their requests carry them.

type Listener = (ports: ReadonlySet<number>) => void;

export class OwnPorts {
  readonly #ports = new Set<number>();
  readonly #listeners = new Set<Listener>();

  has(port: number): boolean {
    return this.#ports.has(port);
  }

  add(port: number): void {
    if (this.#ports.has(port)) return;
    this.#ports.add(port);
    for (const listener of this.#listeners) listener(this.#ports);
  }

  /** Calls with all of them, now and whenever there is a new one, until disposed. */
  follow(listener: Listener): Disposable {
    this.#listeners.add(listener);
    listener(this.#ports);
    return { [Symbol.dispose]: () => void this.#listeners.delete(listener) };
  }
}
