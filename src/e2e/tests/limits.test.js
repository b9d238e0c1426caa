// A server as it is configured for the internet: closed registration, tokens, rate limits, passwords at full cost.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Api, passwordOf, v3 } from "../lib/api.js";
import { SHARED_SECRET } from "../lib/server.js";
import { stage, verdict } from "../lib/stage.js";

const TOKEN = "sesame";
const BURST = 5;

describe("a server on the internet", { concurrency: false }, () => {
  const generous = { per_second: 1000, burst: 1000 };
  const on = stage("limits", {
    registration: { tokens: [TOKEN], shared_secret: SHARED_SECRET },
    passwords: { hashes_at_once: 1 }, // however many processors there are, logins take their time
    rate_limits: {
      default: { per_second: 100_000, burst: 100_000 },
      registration: generous,
      login: generous,
      login_account: { per_second: 0.01, burst: BURST },
      message: { per_second: 0.01, burst: BURST },
    },
  });

  /** Registers by the stage that the server offers, with this token. */
  async function withToken(username, token) {
    const body = { username, password: passwordOf(username) };
    const first = await on.stranger().send("POST", v3`/register`, { body });
    assert.equal(first.status, 401);
    assert.ok(first.body.flows.every(({ stages }) => stages.includes("m.login.registration_token")));
    const auth = { type: "m.login.registration_token", token, session: first.body.session };
    const second = await on.stranger().send("POST", v3`/register`, { body: { ...body, auth } });
    if (second.status !== 401 || !second.body.completed?.length) return second;
    const rest = { type: "m.login.dummy", session: first.body.session };
    return on.stranger().send("POST", v3`/register`, { body: { ...body, auth: rest } });
  }

  it("lets in who has a token, and nobody else", async () => {
    const valid = (token) =>
      on.stranger().get("/_matrix/client/v1/register/m.login.registration_token/validity", { token });
    assert.deepEqual([(await valid(TOKEN)).valid, (await valid("guess")).valid], [true, false]);
    assert.equal((await withToken(on.username("guest"), "guess")).status, 401);
    assert.equal((await withToken(on.username("guest"), TOKEN)).status, 200);

    const body = { username: on.username("x"), password: "long enough", auth: { type: "m.login.dummy" } };
    assert.notEqual((await on.stranger().send("POST", v3`/register`, { body })).status, 200);
    const guest = await on.stranger().send("POST", v3`/register`, { query: { kind: "guest" }, body: {} });
    assert.equal(guest.status, 403);
  });

  it("slows down who sends too much, and says for how long", async () => {
    const { body: session } = await withToken(on.username("eager"), TOKEN);
    const api = new Api(on.server.baseUrl, session);
    const room = await api.createRoom();
    const answers = [];
    for (let n = 0; n <= BURST; n++) {
      const body = { msgtype: "m.text", body: `${n}` };
      answers.push(await api.send("PUT", v3`/rooms/${room}/send/m.room.message/${n}`, { body }));
    }
    const last = answers.at(-1);
    assert.deepEqual(verdict(last), [429, "M_LIMIT_EXCEEDED"]);
    assert.ok(Number(last.headers.get("retry-after")) > 0);
    assert.equal(answers.filter(({ status }) => status === 200).length, BURST);
    await api.whoami(); // nothing else is held back
  });

  it("slows down who guesses a password, whether it is right or not", async () => {
    const username = on.username("target");
    assert.equal((await withToken(username, TOKEN)).status, 200);
    const guess = (password) => {
      const identifier = { type: "m.id.user", user: username };
      return on.stranger().send("POST", v3`/login`, { body: { type: "m.login.password", identifier, password } });
    };
    for (let n = 0; n < BURST; n++) assert.equal((await guess(`guess ${n}`)).status, 403);
    assert.deepEqual(verdict(await guess("guess again")), [429, "M_LIMIT_EXCEEDED"]);
    assert.deepEqual(verdict(await guess(passwordOf(username))), [429, "M_LIMIT_EXCEEDED"]);
  });

  it("answers others while many log in", async () => {
    const { body: session } = await withToken(on.username("calm"), TOKEN);
    const calm = new Api(on.server.baseUrl, session);
    const storm = Array.from({ length: 64 }, (_, n) => {
      const identifier = { type: "m.id.user", user: `nobody${n}` };
      const body = { type: "m.login.password", identifier, password: "a wrong password" };
      return on.stranger().send("POST", v3`/login`, { body });
    });
    let stormy = true;
    const over = Promise.all(storm).then((answers) => {
      stormy = false;
      return answers;
    });
    let answered = 0;
    while (stormy) {
      await calm.whoami();
      answered += 1;
    }
    const statuses = new Set((await over).map(({ status }) => status));
    assert.ok(
      [...statuses].every((status) => [403, 429, 503].includes(status)),
      `${[...statuses]}`,
    );
    assert.ok(answered > storm.length, `whoami was answered ${answered} times meanwhile`);
  });

  it("refuses a password of a novel's length before it hashes it", async () => {
    const body = { username: on.username("author"), password: "x".repeat(60_000), auth: { type: "m.login.dummy" } };
    const { status } = await on.stranger().send("POST", v3`/register`, { body });
    assert.ok(status >= 400 && status < 500, `${status}`);
    const identifier = { type: "m.id.user", user: "nobody" };
    const login = await on
      .stranger()
      .send("POST", v3`/login`, { body: { type: "m.login.password", identifier, password: "x".repeat(60_000) } });
    assert.ok(login.status >= 400 && login.status < 500, `${login.status}`);
  });
});
