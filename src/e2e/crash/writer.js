// A client that writes without pause, notes what was acknowledged, and repeats what was not until it is.

import { Api, ApiError, passwordOf, v3 } from "../lib/api.js";

/** How often a writer does what: messages mostly, and each other kind of durable write now and then. */
const WEIGHTS = { message: 80, retry: 5, state: 3, accountData: 3, profile: 2, redact: 3, register: 2, join: 2 };

/** Failures in a row of a connection to a server that nobody killed, before they are held against it. */
const BROKEN_MAX = 5;

export class Writer {
  #n = 0;
  #sequence = new Map();
  #redacted = new Set();
  #recruits = [];
  stopped = false;

  constructor({ name, api, rooms, ledger, gate, dice }) {
    Object.assign(this, { name, api, rooms, ledger, gate, dice });
  }

  /** Writes until it is stopped; ends at the gate. */
  async run() {
    while (!this.stopped) {
      await this.gate.pass();
      if (!this.stopped) await this[this.dice.weighted(WEIGHTS)]();
    }
  }

  /** Asks until there is an answer. What the server refuses, and errors of its own, are violations. */
  async #stubbornly(what, request) {
    for (let broken = 0; ;) {
      await this.gate.pass();
      const { generation } = this.gate;
      try {
        return await request();
      } catch (error) {
        if (error instanceof ApiError) {
          this.ledger.violation(`${this.name}: ${what}: ${error.message}`);
          return undefined;
        }
        if (generation === this.gate.generation) broken += 1;
        if (broken > BROKEN_MAX) {
          this.ledger.violation(`${this.name}: ${what}: no connection to a living server: ${error.cause ?? error}`);
          return undefined;
        }
      }
    }
  }

  async #event(entry, request) {
    const answer = await this.#stubbornly(`${entry.kind} ${entry.txn}`, request);
    if (answer) this.ledger.acknowledge(entry, answer.event_id);
  }

  async #register(name, value, request) {
    this.ledger.beginRegister(name, value);
    if (await this.#stubbornly(name, request)) this.ledger.acknowledgeRegister(name);
  }

  async message() {
    const room = this.dice.pick(this.rooms);
    const sequence = this.#sequence.get(room) ?? 0;
    this.#sequence.set(room, sequence + 1);
    const txn = `m${this.#n++}`;
    const content = { msgtype: "m.text", body: `${this.name} ${sequence}`, sequence };
    const entry = this.ledger.begin({ kind: "message", writer: this.name, room, sequence, txn, content });
    await this.#event(entry, () => this.#send(entry));
  }

  #send({ room, txn, content }) {
    return this.api.put(v3`/rooms/${room}/send/m.room.message/${txn}`, content);
  }

  /** Repeats a message that was acknowledged long ago: the answer must be the same event. */
  async retry() {
    const entry = this.#someMessage();
    if (!entry) return;
    const answer = await this.#stubbornly(`retry of ${entry.txn}`, () => this.#send(entry));
    if (answer && answer.event_id !== entry.result) {
      this.ledger.violation(`${this.name}: a retry of ${entry.txn} made ${answer.event_id}, not ${entry.result}`);
    }
  }

  async redact() {
    const target = this.#someMessage();
    if (!target || this.#redacted.has(target.result)) return;
    this.#redacted.add(target.result);
    const txn = `r${this.#n++}`;
    const { room, result } = target;
    const entry = this.ledger.begin({ kind: "redaction", writer: this.name, room, txn, redacts: result });
    await this.#event(entry, () => this.api.put(v3`/rooms/${room}/redact/${result}/${txn}`, {}));
  }

  #someMessage() {
    const mine = this.ledger.messages.filter((entry) => entry.writer === this.name);
    return mine.length > 0 ? this.dice.pick(mine) : undefined;
  }

  async state() {
    const room = this.dice.pick(this.rooms);
    const value = { n: this.#n++ };
    const path = v3`/rooms/${room}/state/org.example.counter/${this.name}`;
    await this.#register(`state ${room} ${this.name}`, { read: path, value, writer: this }, () =>
      this.api.put(path, value),
    );
  }

  async accountData() {
    const value = { n: this.#n++ };
    const room = this.dice.chance(0.5) ? this.dice.pick(this.rooms) : undefined;
    const user = this.api.userId;
    const path = room
      ? v3`/user/${user}/rooms/${room}/account_data/org.example.note`
      : v3`/user/${user}/account_data/org.example.note`;
    const name = `account data ${this.name} ${room}`;
    await this.#register(name, { read: path, value, writer: this }, () => this.api.put(path, value));
  }

  async profile() {
    const value = { displayname: `${this.name} ${this.#n++}` };
    const path = v3`/profile/${this.api.userId}/displayname`;
    await this.#register(`profile ${this.name}`, { read: path, value, writer: this }, () => this.api.put(path, value));
  }

  /** A new account. If its answer was lost it exists or not; if it exists, its password must be the one we set. */
  async register() {
    const username = `${this.name}-${this.#n++}`;
    const { baseUrl } = this.api;
    const entry = this.ledger.begin({ kind: "account", writer: this.name, username });
    const api = await this.#stubbornly(`register ${username}`, async () => {
      try {
        return await Api.register(baseUrl, username);
      } catch (error) {
        if (error.errcode !== "M_USER_IN_USE") throw error;
        return Api.login(baseUrl, username, { password: passwordOf(username) });
      }
    });
    if (!api) return;
    this.ledger.acknowledge(entry, api);
    this.#recruits.push(api);
  }

  /** The newest account joins a room. */
  async join() {
    const recruit = this.#recruits.pop();
    if (!recruit) return;
    const room = this.dice.pick(this.rooms);
    const entry = this.ledger.begin({ kind: "join", writer: this.name, room, user: recruit.userId });
    const answer = await this.#stubbornly(`join of ${recruit.userId}`, () => recruit.join(room));
    if (answer) this.ledger.acknowledge(entry, answer);
  }
}
