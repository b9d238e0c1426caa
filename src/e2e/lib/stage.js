// A server for the tests of one file, and the people who use it through plain requests.

import { after, before } from "node:test";
import { Api } from "./api.js";
import { Server } from "./server.js";

/** The answer's status and error code, as assertions compare them. */
export const verdict = ({ status, body }) => [status, body?.errcode];

class Stage {
  server = null;
  #people = 0;

  /** A new account; its local part begins with `name`. */
  person(name) {
    return Api.register(this.server.baseUrl, this.username(name));
  }

  /** Several of them. */
  people(...names) {
    return Promise.all(names.map((name) => this.person(name)));
  }

  /** A local part that is not taken. */
  username(name) {
    return `${name}${++this.#people}`;
  }

  /** Someone without an account. */
  stranger() {
    return new Api(this.server.baseUrl);
  }

  /** A room of the first person that the others have joined. */
  async room([owner, ...others], options = {}) {
    const room = await owner.createRoom({ preset: "public_chat", ...options });
    for (const other of others) await other.join(room);
    return room;
  }
}

/** Starts a server before the tests of this suite; stops it cleanly and checks its store after them. */
export function stage(name, config) {
  const it = new Stage();
  before(async () => {
    it.server = await Server.start(name, config);
  });
  after(() => it.server?.finish());
  return it;
}
