// The client-server API as plain requests, for what an SDK hides: statuses, error codes, tokens, exact bodies.

import { randomUUID } from "node:crypto";

/** No answer at all may take longer than this, in ms: a long-poll's 30 s and some. */
const REQUEST_MS = 60_000;

export const CLIENT = "/_matrix/client/v3";

/** An answer other than the one that was asked for. */
export class ApiError extends Error {
  constructor(method, path, status, body) {
    super(`${method} ${path}: ${status} ${JSON.stringify(body)}`);
    this.status = status;
    this.body = body;
    this.errcode = body?.errcode;
  }
}

/** A path under `/_matrix/client/v3`; `${…}` parts are escaped. */
export function v3(strings, ...parts) {
  return CLIENT + strings.reduce((path, text, i) => path + encodeURIComponent(parts[i - 1]) + text);
}

export class Api {
  constructor(baseUrl, session = {}) {
    this.baseUrl = baseUrl;
    this.session = session; // as the server answered a login: access_token, user_id, device_id, …
  }

  get userId() {
    return this.session.user_id;
  }

  /** Sends a request and returns `{ status, body, headers }`, whatever the status. `raw` is a body sent as it is. */
  async send(method, path, { query, body, raw, headers = {}, token = this.session.access_token, signal } = {}) {
    const url = new URL(this.baseUrl + path);
    for (const [key, value] of Object.entries(query ?? {})) {
      if (value === undefined) continue;
      url.searchParams.set(key, typeof value === "object" ? JSON.stringify(value) : value);
    }
    const hasBody = body !== undefined || raw !== undefined;
    const response = await fetch(url, {
      method,
      headers: {
        ...(token ? { authorization: `Bearer ${token}` } : {}),
        ...(hasBody ? { "content-type": "application/json" } : {}),
        ...headers,
      },
      body: raw ?? (body === undefined ? undefined : JSON.stringify(body)),
      signal: AbortSignal.any([AbortSignal.timeout(REQUEST_MS), ...(signal ? [signal] : [])]),
    });
    const text = await response.text();
    let answer = text;
    try {
      answer = JSON.parse(text);
    } catch {
      // not every answer is JSON; the caller sees the text
    }
    return { status: response.status, body: answer, headers: response.headers };
  }

  /** The body of a 200; anything else throws `ApiError`. */
  async ok(method, path, options) {
    const { status, body } = await this.send(method, path, options);
    if (status !== 200) throw new ApiError(method, path, status, body);
    return body;
  }

  get(path, query) {
    return this.ok("GET", path, { query });
  }

  post(path, body = {}) {
    return this.ok("POST", path, { body });
  }

  put(path, body = {}) {
    return this.ok("PUT", path, { body });
  }

  /** A new account, by the two steps a client takes: learn the flows and the session, then answer the stage. */
  static async register(baseUrl, username, extra = {}) {
    const api = new Api(baseUrl);
    const request = { username, password: passwordOf(username), ...extra };
    const first = await api.send("POST", v3`/register`, { body: request });
    if (first.status !== 401) throw new ApiError("POST", "/register", first.status, first.body);
    const auth = { type: "m.login.dummy", session: first.body.session };
    return new Api(baseUrl, await api.post(v3`/register`, { ...request, auth }));
  }

  static async guest(baseUrl) {
    const api = new Api(baseUrl);
    return new Api(baseUrl, await api.ok("POST", v3`/register`, { query: { kind: "guest" }, body: {} }));
  }

  /** A further device of an account. */
  static async login(baseUrl, username, extra = {}) {
    const identifier = { type: "m.id.user", user: username };
    const body = { type: "m.login.password", identifier, password: passwordOf(username), ...extra };
    return new Api(baseUrl, await new Api(baseUrl).post(v3`/login`, body));
  }

  whoami() {
    return this.get(v3`/account/whoami`);
  }

  async createRoom(options = {}) {
    return (await this.post(v3`/createRoom`, options)).room_id;
  }

  async join(room) {
    return (await this.post(v3`/join/${room}`)).room_id;
  }

  invite(room, user) {
    return this.post(v3`/rooms/${room}/invite`, { user_id: user });
  }

  /** The new message's event id. */
  async message(room, body, txn = randomUUID()) {
    return (await this.put(v3`/rooms/${room}/send/m.room.message/${txn}`, { msgtype: "m.text", body })).event_id;
  }

  async setState(room, type, content, key = "") {
    return (await this.put(v3`/rooms/${room}/state/${type}/${key}`, content)).event_id;
  }

  state(room, type, key = "") {
    return this.get(v3`/rooms/${room}/state/${type}/${key}`);
  }

  messages(room, query) {
    return this.get(v3`/rooms/${room}/messages`, query);
  }

  sync(query = {}) {
    return this.get(v3`/sync`, { timeout: 0, ...query });
  }

  /** Syncs from `since` by long-poll until `probe(answer)` is truthy; returns its value and the last token. */
  async syncUntil(since, what, probe, { query = {}, ms = 30_000 } = {}) {
    const end = performance.now() + ms;
    let token = since;
    while (performance.now() < end) {
      const answer = await this.sync({ since: token, timeout: 2_000, ...query });
      token = answer.next_batch;
      const value = probe(answer);
      if (value) return { value, since: token };
    }
    throw new Error(`not within ${ms} ms of syncing: ${what}`);
  }

  /** Every event of a room that this reader may see, oldest first, by paging back. */
  async history(room, { limit = 100, to, from } = {}) {
    const events = [];
    let token = from;
    do {
      const page = await this.messages(room, { dir: "b", limit, from: token, to });
      events.push(...page.chunk);
      token = page.end;
    } while (token !== undefined);
    return events.reverse();
  }
}

/** The password that the tests give an account. */
export function passwordOf(username) {
  return `the password of ${username}`;
}
