// Bad input: refused at once with a status of 4xx and an error code, and the server is as well as before.

import assert from "node:assert/strict";
import net from "node:net";
import { describe, it } from "node:test";
import { CLIENT, v3 } from "../lib/api.js";
import { stage, verdict } from "../lib/stage.js";
import { within } from "../lib/wait.js";

const deep = (depth) => "[".repeat(depth) + "]".repeat(depth);

describe("bad input", { concurrency: false }, () => {
  const on = stage("hostile");

  const refused = ({ status, body }, what) => {
    assert.ok(status >= 400 && status < 500, `${what}: ${status} ${JSON.stringify(body).slice(0, 200)}`);
    assert.equal(typeof body?.errcode, "string", `${what}: no errcode in ${JSON.stringify(body).slice(0, 200)}`);
  };

  it("in a body is refused by every way of writing", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const bodies = ["", "{", "null", "[]", "1", '"text"', "\u0000", '{"a":1,}', "{'a':1}", "\ufeff{}", deep(10_000)];
    const paths = [
      ["POST", v3`/createRoom`],
      ["PUT", v3`/rooms/${room}/send/m.room.message/txn`],
      ["PUT", v3`/rooms/${room}/state/m.room.topic`],
      ["PUT", v3`/user/${alice.userId}/account_data/org.example`],
      ["POST", v3`/login`],
      ["POST", v3`/user/${alice.userId}/filter`],
    ];
    for (const [method, path] of paths) {
      for (const raw of bodies) {
        if (raw === "" && path.endsWith("createRoom")) continue; // an absent body is an empty one to some clients
        refused(await alice.send(method, path, { raw }), `${method} ${path} ${raw.slice(0, 20)}`);
      }
      refused(
        await alice.send(method, path, { raw: Buffer.from([0x7b, 0xff, 0xfe, 0x7d]) }),
        `${method} ${path} not UTF-8`,
      );
    }
  });

  it("in an event's numbers, depth and size is refused", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const send = (raw, txn) => alice.send("PUT", v3`/rooms/${room}/send/org.example.test/${txn}`, { raw });
    const contents = {
      "a float": '{"n":1.5}',
      "an exponent": '{"n":1e400}',
      "beyond 2^53": '{"n":9007199254740992}',
      "below -2^53": '{"n":-9007199254740992}',
      "beyond 64 bits": '{"n":99999999999999999999999999}',
      "too deep": `{"n":${deep(5_000)}}`,
      "a lone surrogate": '{"s":"\\ud800"}',
    };
    for (const [what, raw] of Object.entries(contents)) refused(await send(raw, what.replaceAll(/\W/g, "")), what);
    assert.deepEqual(verdict(await send(JSON.stringify({ s: "x".repeat(70_000) }), "big")), [413, "M_TOO_LARGE"]);
    assert.equal((await send('{"n":9007199254740991}', "ok")).status, 200);

    const longType = "t".repeat(256);
    refused(await alice.send("PUT", v3`/rooms/${room}/state/${longType}/`, { body: {} }), "a type of 256 bytes");
    refused(
      await alice.send("PUT", v3`/rooms/${room}/state/org.example/${"k".repeat(256)}`, { body: {} }),
      "a long key",
    );
  });

  it("in a body's length is refused before it is read", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const raw = JSON.stringify({ body: "x".repeat(60 * 1024 * 1024) });
    const result = await alice
      .send("PUT", v3`/rooms/${room}/send/m.room.message/huge`, { raw })
      .catch(() => ({ status: 413, body: { errcode: "M_TOO_LARGE" } })); // closing the connection under it is fair
    assert.deepEqual(verdict(result), [413, "M_TOO_LARGE"]);
    await alice.whoami();
  });

  it("in ids and tokens of a path is refused", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const long = "x".repeat(300);
    const ids = ["", "%00", "%ff%fe", "..", "!", "$", "@", "%F0%9F%94%A5", "!a:b:c:d", long, "!%0a:x"];
    for (const id of ids) {
      for (const path of [
        `${CLIENT}/rooms/${id}/state`,
        `${CLIENT}/rooms/${id}/messages?dir=b`,
        `${CLIENT}/rooms/${encodeURIComponent(room)}/event/${id}`,
        `${CLIENT}/rooms/${encodeURIComponent(room)}/context/${id}`,
        `${CLIENT}/profile/${id}`,
        `${CLIENT}/directory/room/${id}`,
        `${CLIENT}/user/${id}/filter/1`,
      ]) {
        refused(await alice.send("GET", path), path);
      }
    }
    for (const token of ["", "garbage", long, "Bearer"]) {
      const headers = { authorization: `Bearer ${token}` };
      refused(await on.stranger().send("GET", v3`/account/whoami`, { headers }), `token ${token}`);
    }
  });

  it("in a query's numbers and words is refused", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const messages = (query) => alice.send("GET", v3`/rooms/${room}/messages`, { query });
    for (const query of [
      { dir: "sideways" },
      { dir: "b", limit: "many" },
      { dir: "b", limit: -1 },
      { dir: "b", from: "no token" },
      { dir: "b", filter: "{" },
    ]) {
      refused(await messages(query), JSON.stringify(query));
    }
    for (const limit of ["1000000", "99999999999999999999999"]) {
      const { status } = await messages({ dir: "b", limit });
      assert.ok(status === 200 || status === 400, `a page of ${limit} is cut or refused: ${status}`);
    }
  });

  it("at unknown paths and methods is told so", async () => {
    const alice = await on.person("alice");
    assert.deepEqual(verdict(await alice.send("GET", `${CLIENT}/no/such/thing`)), [404, "M_UNRECOGNIZED"]);
    assert.deepEqual(verdict(await alice.send("GET", "/_matrix/unknown")), [404, "M_UNRECOGNIZED"]);
    assert.deepEqual(verdict(await alice.send("DELETE", `${CLIENT}/account/whoami`)), [405, "M_UNRECOGNIZED"]);
  });

  it("of a type that someone else owns is refused", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await on.room([alice, bob]);
    const cases = [
      ["PUT", v3`/rooms/${room}/state/m.room.create/`, { room_version: "1" }],
      ["PUT", v3`/rooms/${room}/state/m.room.member/${alice.userId}`, { membership: "leave" }],
      ["PUT", v3`/rooms/${room}/state/m.room.member/not-a-user`, { membership: "join" }],
      ["PUT", v3`/rooms/${room}/state/m.room.power_levels/`, { users: { [bob.userId]: 100 } }],
      ["PUT", v3`/user/${alice.userId}/account_data/org.example`, {}],
      ["PUT", v3`/user/${bob.userId}/account_data/m.fully_read`, {}],
      ["POST", v3`/rooms/${room}/kick`, { user_id: alice.userId }],
    ];
    for (const [method, path, body] of cases) refused(await bob.send(method, path, { body }), `${method} ${path}`);
  });

  it("in the framing of HTTP costs only its own connection", async () => {
    const requests = [
      "GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
      "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
      "POST /_matrix/client/v3/login HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
      `GET /${"a".repeat(200_000)} HTTP/1.1\r\nHost: x\r\n\r\n`,
      `GET / HTTP/1.1\r\nHost: x\r\n${"X-Long: y\r\n".repeat(20_000)}\r\n`,
      "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
      "GARBAGE\r\n\r\n",
    ];
    for (const text of requests) {
      const answer = await within(
        rawRequest(on.server.port, text),
        `an answer to ${JSON.stringify(text.slice(0, 60))}`,
      );
      assert.ok(answer === "" || /^HTTP\/1\.[01] 4\d\d/.test(answer), answer.slice(0, 60));
    }
    await on.stranger().get("/_matrix/client/versions");
  });
});

/** Sends bytes as they are; what came back when the other side closed. */
function rawRequest(port, text) {
  return new Promise((resolve) => {
    let answer = "";
    const socket = net.connect(port, "127.0.0.1", () => socket.end(text));
    socket.setEncoding("latin1");
    socket.on("data", (data) => (answer += data));
    socket.on("error", () => resolve(answer)); // reset by the server: it closed, which is what is asked
    socket.on("close", () => resolve(answer));
  });
}
