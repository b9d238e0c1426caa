// The wire between two servers: a port that passes bytes on, until it is cut.

import { connect, createServer } from "node:net";

export class Relay {
  #sockets = new Set();
  #server = null;

  /** Listens on a free port of 127.0.0.1 and passes on to `target.port`, which may be set later. */
  static async open() {
    const relay = new Relay();
    relay.target = null;
    relay.isCut = false;
    relay.#server = createServer((socket) => relay.#pass(socket));
    await new Promise((resolve, reject) => relay.#server.once("error", reject).listen(0, "127.0.0.1", resolve));
    relay.port = relay.#server.address().port;
    return relay;
  }

  /** Breaks what is open and refuses what comes. */
  cut() {
    this.isCut = true;
    for (const socket of this.#sockets) socket.destroy();
  }

  mend() {
    this.isCut = false;
  }

  async close() {
    this.cut();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  #pass(socket) {
    if (this.isCut || this.target === null) return void socket.destroy();
    const onward = connect(this.target, "127.0.0.1");
    for (const [one, other] of [
      [socket, onward],
      [onward, socket],
    ]) {
      this.#sockets.add(one);
      one.on("error", () => other.destroy());
      one.on("close", () => {
        this.#sockets.delete(one);
        other.destroy();
      });
      one.pipe(other);
    }
  }
}
