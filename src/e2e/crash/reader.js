// A client that syncs through all of it, filling the gaps that sync declares by paging back.

import { v3 } from "../lib/api.js";

/** Small, so that gaps are frequent. */
const TIMELINE_LIMIT = 10;
const FILTER = { room: { timeline: { limit: TIMELINE_LIMIT }, state: { lazy_load_members: true } } };

/** A poll's length, in ms: longer than a round mostly takes, so that kills hit waiting polls too. */
const POLL_MS = 5_000;

export class Reader {
  #since = undefined;
  stopped = false;

  /** Event ids as they were shown, by room. */
  seen = new Map();

  constructor({ api, rooms, ledger, gate }) {
    Object.assign(this, { api, ledger, gate });
    for (const room of rooms) this.seen.set(room, []);
  }

  /** Follows until it is stopped; a broken poll is repeated from the same token. */
  async run() {
    while (!this.stopped) {
      await this.gate.pass();
      if (!this.stopped) await this.#step(POLL_MS).catch((error) => this.#broken(error));
    }
  }

  /** Reads on until there is nothing new; only while `run` waits at the gate. */
  async drain() {
    while (await this.#step(0));
  }

  #broken(error) {
    if (error.status !== undefined) this.ledger.violation(`reader: ${error.message}`);
  }

  /** One sync. A failure anywhere leaves the reader where it was. True if there was something new. */
  async #step(timeout) {
    const answer = await this.api.get(v3`/sync`, { since: this.#since, filter: FILTER, timeout });
    const news = [];
    for (const [room, { timeline }] of Object.entries(answer.rooms?.join ?? {})) {
      const shown = timeline?.events ?? [];
      const gap = timeline?.limited ? await this.#gap(room, timeline.prev_batch) : [];
      news.push([room, [...gap, ...shown].map((event) => event.event_id)]);
    }
    for (const [room, events] of news) this.seen.get(room)?.push(...events);
    this.#since = answer.next_batch;
    return news.some(([, events]) => events.length > 0);
  }

  /** What lies between the last answer and this one: from `prev_batch` back to the token we came with. */
  #gap(room, prevBatch) {
    return this.api.history(room, { from: prevBatch, to: this.#since });
  }
}
