// Compares the ledger with what the restarted server shows.

import { isDeepStrictEqual } from "node:util";
import { Api, v3 } from "../lib/api.js";

/** Events a page. */
const PAGE = 200;

export class Checker {
  #verified = new Map(); // room -> event ids, oldest first
  #known = new Map(); // room -> set of the same ids
  #sequences = new Map(); // room and writer -> next message number
  #redacted = new Set();

  constructor({ api, rooms, writers, ledger }) {
    Object.assign(this, { api, rooms, ledger });
    this.writers = new Map(writers.map((writer) => [writer.api.userId, writer.name]));
    for (const room of rooms) {
      this.#verified.set(room, []);
      this.#known.set(room, new Set());
    }
  }

  events() {
    return [...this.#verified.values()].reduce((sum, list) => sum + list.length, 0);
  }

  /** What is new since the last check; the writers stand still. */
  async step() {
    for (const room of this.rooms) this.#take(room, await this.#news(room));
    await this.#entries();
    await this.#registers();
    this.ledger.settle();
  }

  /** The room's events after the last verified one, oldest first. */
  async #news(room) {
    const known = this.#known.get(room);
    const news = [];
    let from;
    do {
      const page = await this.api.messages(room, { dir: "b", limit: PAGE, from });
      const fresh = page.chunk.findIndex((event) => known.has(event.event_id));
      news.push(...(fresh < 0 ? page.chunk : page.chunk.slice(0, fresh)));
      from = fresh < 0 ? page.end : undefined;
    } while (from !== undefined);
    return news.reverse();
  }

  #take(room, events) {
    const known = this.#known.get(room);
    for (const event of events) {
      if (known.has(event.event_id)) this.#violation(`${room} shows ${event.event_id} twice`);
      known.add(event.event_id);
      this.#verified.get(room).push(event.event_id);
      if (event.type === "m.room.message") this.#sequence(room, event);
      if (event.type === "m.room.redaction") this.#redaction(room, event);
    }
  }

  /** A writer's messages in a room are numbered without gap: none lost, none doubled, none out of order. */
  #sequence(room, event) {
    const key = `${room} ${event.sender}`;
    const expected = this.#sequences.get(key) ?? 0;
    const { sequence } = event.content;
    if (sequence !== expected) {
      this.#violation(
        `${room}: ${this.writers.get(event.sender)}'s ${sequence} where ${expected} was due (${event.event_id})`,
      );
    }
    this.#sequences.set(key, (sequence ?? expected) + 1);
  }

  #redaction(room, event) {
    const target = event.redacts ?? event.content.redacts;
    if (this.#redacted.has(target)) this.#violation(`${room}: ${target} is redacted twice`);
    this.#redacted.add(target);
  }

  async #entries() {
    for (const entry of this.ledger.open) {
      if (!entry.acknowledged) continue;
      if (entry.kind === "account") await this.#account(entry);
      else if (entry.kind === "join") await this.#join(entry);
      else if (!this.#known.get(entry.room).has(entry.result)) {
        this.#violation(
          `${entry.room}: the acknowledged ${entry.kind} ${entry.txn} of ${entry.writer} (${entry.result}) is gone`,
        );
      }
    }
  }

  async #account({ username, result }) {
    const who = await attempt(() => result.whoami());
    if (who.user_id !== result.userId) this.#violation(`the session of ${username} is gone: ${JSON.stringify(who)}`);
    const again = await attempt(() => Api.login(result.baseUrl, username));
    if (again.userId !== result.userId) this.#violation(`${username} can't log in: ${JSON.stringify(again)}`);
  }

  async #join({ room, user }) {
    const member = await attempt(() => this.api.state(room, "m.room.member", user));
    if (member.membership !== "join") this.#violation(`${user}'s join of ${room} is gone: ${JSON.stringify(member)}`);
  }

  /** A register holds its last acknowledged value, or the one whose acknowledgement was lost. */
  async #registers() {
    for (const [name, { acknowledged, pending }] of this.ledger.registers) {
      const { read, writer } = acknowledged ?? pending;
      const value = await attempt(() => writer.api.get(read));
      const allowed = [acknowledged, pending].filter(Boolean).map((written) => written.value);
      // A display name that nobody has set is an empty object.
      const isUnset = value.errcode === "M_NOT_FOUND" || Object.keys(value).length === 0;
      if (acknowledged === undefined && isUnset) continue;
      if (!allowed.some((wanted) => holds(value, wanted))) {
        this.#violation(`${name} is ${JSON.stringify(value)}, none of ${JSON.stringify(allowed)}`);
      }
    }
  }

  /** The whole store once more, in both directions, against all that was verified and all that the reader saw. */
  async everything(reader) {
    for (const room of this.rooms) {
      const verified = this.#verified.get(room);
      const backwards = (await this.api.history(room, { limit: PAGE })).map((event) => event.event_id);
      this.#same(room, "paging back", verified, backwards);
      this.#same(room, "paging forward", verified, await this.#forwards(room));
      this.#same(room, "the reader", verified, reader.seen.get(room), { from: reader.seen.get(room)[0] });
    }
  }

  async #forwards(room) {
    const events = [];
    let from;
    do {
      const page = await this.api.messages(room, { dir: "f", limit: PAGE, from });
      events.push(...page.chunk.map((event) => event.event_id));
      from = page.end;
    } while (from !== undefined);
    return events;
  }

  /** What the reader has seen so far is the room, from the first event that it was shown. */
  reader(reader) {
    for (const room of this.rooms) {
      const seen = reader.seen.get(room);
      this.#same(room, "the reader", this.#verified.get(room), seen, { from: seen[0] });
    }
  }

  /** `theirs` is `ours`, or its end that begins at the event `from`. */
  #same(room, who, ours, theirs, { from } = {}) {
    const offset = from === undefined ? 0 : ours.indexOf(from);
    if (offset < 0) return this.#violation(`${room}: ${who} has ${from}, which is not in the room`);
    const length = Math.max(ours.length - offset, theirs.length);
    for (let i = 0; i < length; i++) {
      if (ours[offset + i] !== theirs[i]) {
        return this.#violation(
          `${room}: ${who} has ${theirs[i]} as number ${i} of ${theirs.length}, the room ${ours[offset + i]}`,
        );
      }
    }
  }

  #violation(text) {
    this.ledger.violation(text);
  }
}

/** The answer, or the error's body: what a violation prints. */
async function attempt(request) {
  try {
    return await request();
  } catch (error) {
    if (error.body === undefined) throw error;
    return error.body;
  }
}

/** `value` has all that was written; the server may add to it. */
const holds = (value, written) => Object.entries(written).every(([key, item]) => isDeepStrictEqual(value?.[key], item));
