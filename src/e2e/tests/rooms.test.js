// Rooms beyond a conversation: every version, ways in, names, the directory, upgrades, and reading at a point.

import assert from "node:assert/strict";
import { randomUUID } from "node:crypto";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { stage, verdict } from "../lib/stage.js";

const VERSIONS = ["1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12"];

const idsOf = (events) => events.map((event) => event.event_id);

describe("rooms", { concurrency: false }, () => {
  const on = stage("rooms");

  const joinRules = (content) => ({ type: "m.room.join_rules", state_key: "", content });

  for (const version of VERSIONS) {
    it(`of version ${version} carry a conversation, a redaction and a ban`, async () => {
      const [owner, guest] = await on.people("owner", "guest");
      const room = await owner.createRoom({ preset: "private_chat", room_version: version, invite: [guest.userId] });
      assert.equal((await owner.state(room, "m.room.create")).room_version ?? "1", version);
      await guest.join(room);
      const said = await guest.message(room, "hello");
      await owner.put(v3`/rooms/${room}/redact/${said}/${randomUUID()}`, { reason: "test" });
      const seen = await owner.get(v3`/rooms/${room}/event/${said}`);
      assert.deepEqual(seen.content, {});
      const because = seen.unsigned.redacted_because;
      assert.equal(because.redacts ?? because.content.redacts, said);

      await owner.post(v3`/rooms/${room}/ban`, { user_id: guest.userId });
      assert.equal((await guest.send("POST", v3`/join/${room}`, { body: {} })).status, 403);
      const order = (await owner.history(room)).map((event) => event.type);
      assert.equal(order[0], "m.room.create");
      assert.equal(order.at(-1), "m.room.member");
    });
  }

  it("refuse a version that nobody knows", async () => {
    const owner = await on.person("owner");
    const made = await owner.send("POST", v3`/createRoom`, { body: { room_version: "no such version" } });
    assert.deepEqual(verdict(made), [400, "M_UNSUPPORTED_ROOM_VERSION"]);
    const offered = (await owner.get(v3`/capabilities`)).capabilities["m.room_versions"];
    for (const version of VERSIONS) assert.ok(offered.available[version], `version ${version} is offered`);
  });

  it("begin with the state that their maker asked for", async () => {
    const [owner, guest] = await on.people("owner", "guest");
    const room = await owner.createRoom({
      preset: "public_chat",
      name: "A name",
      topic: "A topic",
      creation_content: { "m.federate": false, "org.example.kind": "test" },
      initial_state: [{ type: "org.example.first", state_key: "k", content: { n: 1 } }],
      power_level_content_override: { events_default: 10, users_default: 5 },
    });
    await guest.join(room);
    const create = await guest.state(room, "m.room.create");
    assert.deepEqual([create["m.federate"], create["org.example.kind"]], [false, "test"]);
    assert.deepEqual(await guest.state(room, "org.example.first", "k"), { n: 1 });
    assert.equal((await guest.state(room, "m.room.name")).name, "A name");
    assert.equal((await guest.state(room, "m.room.join_rules")).join_rule, "public");
    const refused = await guest.send("PUT", v3`/rooms/${room}/send/m.room.message/${randomUUID()}`, {
      body: { msgtype: "m.text", body: "5 is less than 10" },
    });
    assert.deepEqual(verdict(refused), [403, "M_FORBIDDEN"]);
  });

  it("are knocked at, and opened or not", async () => {
    const [owner, friend, pest] = await on.people("owner", "friend", "pest");
    const room = await owner.createRoom({ preset: "private_chat", initial_state: [joinRules({ join_rule: "knock" })] });
    const { next_batch: since } = await owner.sync();
    const { next_batch: friendSince } = await friend.sync();

    assert.equal((await friend.send("POST", v3`/join/${room}`, { body: {} })).status, 403);
    for (const guest of [friend, pest]) await guest.post(v3`/knock/${room}`, { reason: "let me in" });
    await owner.syncUntil(since, "two knocks", (answer) => {
      const events = answer.rooms?.join?.[room]?.timeline.events ?? [];
      return events.some((event) => event.state_key === pest.userId && event.content.membership === "knock");
    });
    const { value: knocked } = await friend.syncUntil(
      friendSince,
      "his own knock",
      (answer) => answer.rooms?.knock?.[room],
    );
    assert.ok(knocked.knock_state.events.some((event) => event.type === "m.room.join_rules"));

    await owner.invite(room, friend.userId);
    await friend.join(room);
    await owner.post(v3`/rooms/${room}/kick`, { user_id: pest.userId });
    assert.equal((await pest.send("POST", v3`/join/${room}`, { body: {} })).status, 403);
  });

  it("let in who is in another room, and nobody else", async () => {
    const [owner, member, stranger] = await on.people("owner", "member", "stranger");
    const club = await on.room([owner, member]);
    const rule = { join_rule: "restricted", allow: [{ type: "m.room_membership", room_id: club }] };
    const room = await owner.createRoom({ preset: "private_chat", initial_state: [joinRules(rule)] });
    await member.join(room);
    const own = await owner.state(room, "m.room.member", member.userId);
    assert.equal(own.join_authorised_via_users_server, owner.userId);
    assert.deepEqual(verdict(await stranger.send("POST", v3`/join/${room}`, { body: {} })), [403, "M_FORBIDDEN"]);

    await member.post(v3`/rooms/${club}/leave`);
    await member.post(v3`/rooms/${room}/leave`);
    assert.equal((await member.send("POST", v3`/join/${room}`, { body: {} })).status, 403);
  });

  it("have names, one of which is the canonical one", async () => {
    const [owner, guest] = await on.people("owner", "guest");
    const alias = `#${on.username("hearth")}:${on.server.name}`;
    const room = await owner.createRoom({ preset: "public_chat" });
    await owner.put(v3`/directory/room/${alias}`, { room_id: room });
    await owner.setState(room, "m.room.canonical_alias", { alias });
    assert.equal((await guest.get(v3`/directory/room/${alias}`)).room_id, room);
    assert.equal(await guest.join(alias), room);
    assert.deepEqual((await guest.get(v3`/rooms/${room}/aliases`)).aliases, [alias]);

    const again = await owner.send("PUT", v3`/directory/room/${alias}`, { body: { room_id: room } });
    assert.equal(again.status, 409);
    assert.equal((await guest.send("DELETE", v3`/directory/room/${alias}`)).status, 403);
    const wrong = { alias: `#nowhere:${on.server.name}` };
    const bad = await owner.send("PUT", v3`/rooms/${room}/state/m.room.canonical_alias/`, { body: wrong });
    assert.deepEqual(verdict(bad), [400, "M_BAD_ALIAS"]);

    await owner.ok("DELETE", v3`/directory/room/${alias}`);
    assert.deepEqual(verdict(await guest.send("GET", v3`/directory/room/${alias}`)), [404, "M_NOT_FOUND"]);
  });

  it("are found in the directory, page by page and by words", async () => {
    const owner = await on.person("owner");
    const word = on.username("lighthouse");
    const rooms = [];
    for (let n = 0; n < 5; n++) {
      rooms.push(await owner.createRoom({ preset: "public_chat", visibility: "public", name: `${word} ${n}` }));
    }
    await owner.createRoom({ preset: "public_chat", name: `${word} hidden` });
    const found = [];
    let since;
    do {
      const page = await owner.post(v3`/publicRooms`, { limit: 2, since, filter: { generic_search_term: word } });
      assert.ok(page.chunk.length <= 2);
      found.push(...page.chunk);
      since = page.next_batch;
    } while (since !== undefined);
    assert.deepEqual(found.map((entry) => entry.room_id).sort(), rooms.sort());
    assert.ok(found.every((entry) => entry.num_joined_members === 1 && entry.join_rule === "public"));

    await owner.put(v3`/directory/list/room/${rooms[0]}`, { visibility: "private" });
    const rest = await owner.post(v3`/publicRooms`, { filter: { generic_search_term: word } });
    assert.equal(rest.chunk.length, 4);
  });

  it("are upgraded: the old one points to the new one, which remembers", async () => {
    const [owner, guest] = await on.people("owner", "guest");
    const old = await on.room([owner, guest], { room_version: "10", name: "Old name", topic: "Kept" });
    await owner.post(v3`/rooms/${old}/ban`, { user_id: `@pest:${on.server.name}` });
    const { replacement_room: next } = await owner.post(v3`/rooms/${old}/upgrade`, { new_version: "12" });

    assert.equal((await guest.state(old, "m.room.tombstone")).replacement_room, next);
    const create = await owner.state(next, "m.room.create");
    assert.equal(create.room_version, "12");
    assert.equal(create.predecessor.room_id, old);
    await guest.join(next);
    assert.equal((await guest.state(next, "m.room.name")).name, "Old name");
    assert.equal((await guest.state(next, "m.room.topic")).topic, "Kept");
    assert.equal((await owner.state(next, "m.room.member", `@pest:${on.server.name}`)).membership, "ban");
    const refused = await guest.send("PUT", v3`/rooms/${old}/send/m.room.message/${randomUUID()}`, {
      body: { msgtype: "m.text", body: "too late" },
    });
    assert.equal(refused.status, 403);
    assert.equal((await guest.send("POST", v3`/rooms/${next}/upgrade`, { body: { new_version: "12" } })).status, 403);
  });

  it("are forgotten only after they were left", async () => {
    const [owner, guest] = await on.people("owner", "guest");
    const room = await on.room([owner, guest]);
    assert.equal((await guest.send("POST", v3`/rooms/${room}/forget`, { body: {} })).status, 400);
    await guest.post(v3`/rooms/${room}/leave`);
    assert.ok((await guest.messages(room, { dir: "b" })).chunk.length > 0, "what one saw stays readable");
    await guest.post(v3`/rooms/${room}/forget`);
    assert.equal((await guest.send("GET", v3`/rooms/${room}/messages`, { query: { dir: "b" } })).status, 403);
    const full = await guest.sync({ filter: { room: { include_leave: true } } });
    assert.equal(full.rooms?.leave?.[room], undefined);
  });

  it("are read around an event, at a time, and as lists of members", async () => {
    const [owner, guest] = await on.people("owner", "guest");
    const room = await on.room([owner, guest]);
    const said = [];
    for (let n = 0; n < 9; n++) said.push(await owner.message(room, `${n}`));

    const around = await guest.get(v3`/rooms/${room}/context/${said[4]}`, { limit: 4 });
    assert.equal(around.event.event_id, said[4]);
    assert.deepEqual(idsOf(around.events_before), [said[3], said[2]]);
    assert.deepEqual(idsOf(around.events_after), [said[5], said[6]]);
    const older = await guest.messages(room, { dir: "b", from: around.start, limit: 2 });
    assert.deepEqual(idsOf(older.chunk), [said[1], said[0]]);
    const newer = await guest.messages(room, { dir: "f", from: around.end, limit: 2 });
    assert.deepEqual(idsOf(newer.chunk), [said[7], said[8]]);

    const { origin_server_ts: ts } = around.event;
    const at = await guest.get("/_matrix/client/v1/rooms/" + encodeURIComponent(room) + "/timestamp_to_event", {
      ts,
      dir: "f",
    });
    assert.ok(at.origin_server_ts >= ts && said.includes(at.event_id));

    await guest.post(v3`/rooms/${room}/leave`);
    const { joined } = await owner.get(v3`/rooms/${room}/joined_members`);
    assert.deepEqual(Object.keys(joined), [owner.userId]);
    const left = await owner.get(v3`/rooms/${room}/members`, { membership: "leave" });
    assert.deepEqual(
      left.chunk.map((event) => event.state_key),
      [guest.userId],
    );
  });

  it("answer a repeated transaction with the same event, per device and path", async () => {
    const owner = await on.person("owner");
    const [one, two] = [await on.room([owner]), await on.room([owner])];
    const first = await owner.message(one, "once", "txn");
    assert.equal(await owner.message(one, "once", "txn"), first);
    const other = await owner.message(two, "once", "txn");
    assert.notEqual(other, first);
    const shown = (await owner.history(one)).filter((event) => event.type === "m.room.message");
    assert.deepEqual(idsOf(shown), [first]);
    assert.equal(shown[0].unsigned.transaction_id, "txn");
  });

  it("take concurrent retries of one message for one message", async () => {
    const owner = await on.person("owner");
    const room = await on.room([owner]);
    const answers = await Promise.all(Array.from({ length: 8 }, () => owner.message(room, "once", "same")));
    assert.equal(new Set(answers).size, 1);
    const shown = (await owner.history(room)).filter((event) => event.type === "m.room.message");
    assert.equal(shown.length, 1);
  });
});
