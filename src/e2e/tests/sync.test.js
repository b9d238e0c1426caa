// Sync: what each section says, what a filter leaves out, and that tokens fit together without gap or overlap.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { stage } from "../lib/stage.js";
import { within } from "../lib/wait.js";

const idsOf = (events) => events.map((event) => event.event_id);

describe("sync", { concurrency: false }, () => {
  const on = stage("sync");

  it("answers at once with nothing new, and wakes for news", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await on.room([alice, bob]);
    const { next_batch: since } = await bob.sync();
    const quiet = await bob.sync({ since });
    assert.equal(quiet.rooms?.join?.[room], undefined);

    const begin = performance.now();
    const waiting = bob.sync({ since: quiet.next_batch, timeout: 30_000 });
    const said = await alice.message(room, "wake up");
    const news = await waiting;
    assert.ok(performance.now() - begin < 10_000, "it did not wait for the time-out");
    assert.deepEqual(idsOf(news.rooms.join[room].timeline.events), [said]);
  });

  it("gives a waiting reader an empty answer when its time is up", async () => {
    const alice = await on.person("alice");
    const { next_batch: since } = await alice.sync();
    const settled = await alice.sync({ since });
    const begin = performance.now();
    const empty = await alice.sync({ since: settled.next_batch, timeout: 300 });
    assert.ok(performance.now() - begin >= 250);
    assert.equal(Object.keys(empty.rooms?.join ?? {}).length, 0);
  });

  it("cuts a long timeline, and /messages continues exactly there", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await on.room([alice, bob]);
    const { next_batch: since } = await bob.sync();
    const said = [];
    for (let n = 0; n < 25; n++) said.push(await alice.message(room, `${n}`));
    await alice.setState(room, "m.room.topic", { topic: "inside the gap" });
    const after = [];
    for (let n = 0; n < 5; n++) after.push(await alice.message(room, `after ${n}`));

    const filter = { room: { timeline: { limit: 5 } } };
    const { rooms } = await bob.sync({ since, filter });
    const { timeline, state } = rooms.join[room];
    assert.equal(timeline.limited, true);
    assert.deepEqual(idsOf(timeline.events), after);
    assert.deepEqual(
      state.events.map((event) => event.type),
      ["m.room.topic"],
      "state of the gap comes apart",
    );

    const gap = await bob.history(room, { from: timeline.prev_batch, to: since, limit: 7 });
    assert.deepEqual(idsOf(gap.filter((event) => event.type === "m.room.message")), said);
    assert.equal(gap.length, said.length + 1);
  });

  it("tells each event exactly once over many small answers", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await on.room([alice, bob]);
    let { next_batch: since } = await bob.sync();
    const said = [];
    const talk = async () => {
      for (let n = 0; n < 60; n++) said.push(await alice.message(room, `${n}`));
      return alice.message(room, "the end");
    };
    const seen = [];
    const follow = async () => {
      for (;;) {
        const answer = await bob.sync({ since, timeout: 5_000, filter: { room: { timeline: { limit: 100 } } } });
        since = answer.next_batch;
        const events = answer.rooms?.join?.[room]?.timeline.events ?? [];
        seen.push(...idsOf(events));
        if (events.some((event) => event.content.body === "the end")) return;
      }
    };
    const [end] = await Promise.all([talk(), within(follow(), "bob sees the end")]);
    assert.deepEqual(seen, [...said, end]);
  });

  it("shows invitations, departures and bans in their sections", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await alice.createRoom({ preset: "private_chat", name: "Den" });
    const { next_batch: start } = await bob.sync();
    await alice.invite(room, bob.userId);
    const { value: invite, since: invited } = await bob.syncUntil(
      start,
      "the invitation",
      (answer) => answer.rooms?.invite?.[room],
    );
    const name = invite.invite_state.events.find((event) => event.type === "m.room.name");
    assert.equal(name.content.name, "Den");

    await bob.join(room);
    const { value: joined, since: inside } = await bob.syncUntil(
      invited,
      "the room",
      (answer) => answer.rooms?.join?.[room],
    );
    const all = [...joined.state.events, ...joined.timeline.events].map((event) => event.type);
    assert.ok(all.includes("m.room.create"), "a newly joined room comes whole");

    await alice.post(v3`/rooms/${room}/ban`, { user_id: bob.userId });
    await alice.message(room, "not for bob");
    const { value: left } = await bob.syncUntil(inside, "the ban", (answer) => answer.rooms?.leave?.[room]);
    assert.equal(left.timeline.events.at(-1).content.membership, "ban", "it ends at the ban");
  });

  it("takes an invitation back that was rejected or rescinded", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await alice.createRoom({ preset: "private_chat", invite: [bob.userId] });
    const { value, since } = await bob.syncUntil(undefined, "the invitation", (answer) => answer.rooms?.invite?.[room]);
    assert.ok(value);
    await alice.post(v3`/rooms/${room}/kick`, { user_id: bob.userId });
    await bob.syncUntil(since, "it is gone", (answer) => answer.rooms?.leave?.[room]);
    const fresh = await bob.sync();
    assert.equal(fresh.rooms?.invite?.[room], undefined);
  });

  it("names lazily loaded members as they speak", async () => {
    const names = ["owner", "a", "b", "c", "d", "reader"];
    const everyone = await on.people(...names);
    const [owner, ...others] = everyone;
    const room = await on.room(everyone, { name: "Hall" }); // a nameless room's heroes are sent too
    const reader = others.at(-1);
    const filter = { room: { state: { lazy_load_members: true }, timeline: { limit: 1 } } };
    await owner.message(room, "hello");
    const first = (await reader.sync({ filter })).rooms.join[room];
    const members = first.state.events
      .filter((event) => event.type === "m.room.member")
      .map((event) => event.state_key);
    assert.ok(members.includes(owner.userId), "the sender of the timeline");
    assert.ok(!members.includes(others[0].userId), "nobody who has not spoken");
    assert.equal(first.summary["m.joined_member_count"], everyone.length);
  });

  it("leaves out what the filter leaves out", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const [one, two] = [await on.room([alice, bob]), await on.room([alice, bob])];
    const { next_batch: since } = await bob.sync();
    for (const room of [one, two]) {
      await alice.message(room, "text");
      await alice.setState(room, "m.room.topic", { topic: "changed" });
      await bob.message(room, "own");
    }
    const { filter_id: id } = await bob.post(v3`/user/${bob.userId}/filter`, {
      event_fields: ["type", "content.body"],
      room: { rooms: [one], timeline: { types: ["m.room.mess*"], not_senders: [bob.userId] } },
    });
    const { rooms } = await bob.sync({ since, filter: id });
    assert.deepEqual(Object.keys(rooms.join), [one]);
    const [only] = rooms.join[one].timeline.events;
    assert.equal(rooms.join[one].timeline.events.length, 1);
    assert.deepEqual(only, { type: "m.room.message", content: { body: "text" } });
    const stored = await bob.get(v3`/user/${bob.userId}/filter/${id}`);
    assert.deepEqual(stored.room.rooms, [one]);
  });

  it("gives the state after the timeline to who asks for it", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await on.room([alice, bob]);
    const { next_batch: since } = await bob.sync();
    await alice.setState(room, "m.room.topic", { topic: "first" });
    await alice.setState(room, "m.room.topic", { topic: "second" });
    const answer = (await bob.sync({ since, use_state_after: true })).rooms.join[room];
    assert.equal(answer.state, undefined);
    assert.deepEqual(
      answer.state_after.events.map((event) => event.content.topic),
      ["second"],
    );
    assert.deepEqual(
      answer.timeline.events.map((event) => event.content.topic),
      ["first", "second"],
    );
  });

  it("repeats the whole state on demand", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const { next_batch: since } = await alice.sync();
    const full = (await alice.sync({ since, full_state: true })).rooms.join[room];
    const types = full.state.events.map((event) => event.type);
    for (const type of ["m.room.create", "m.room.member", "m.room.power_levels"]) assert.ok(types.includes(type), type);
  });

  it("carries account data and tags, per room and for all", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const { next_batch: since } = await alice.sync();
    await alice.put(v3`/user/${alice.userId}/account_data/org.example.all`, { n: 1 });
    await alice.put(v3`/user/${alice.userId}/rooms/${room}/account_data/org.example.room`, { n: 2 });
    await alice.put(v3`/user/${alice.userId}/rooms/${room}/tags/m.favourite`, { order: 0.25 });
    const news = await alice.sync({ since });
    assert.deepEqual(news.account_data.events, [{ type: "org.example.all", content: { n: 1 } }]);
    const inRoom = Object.fromEntries(
      news.rooms.join[room].account_data.events.map(({ type, content }) => [type, content]),
    );
    assert.deepEqual(inRoom, { "org.example.room": { n: 2 }, "m.tag": { tags: { "m.favourite": { order: 0.25 } } } });
    await alice.ok("DELETE", v3`/user/${alice.userId}/rooms/${room}/tags/m.favourite`);
    assert.deepEqual((await alice.get(v3`/user/${alice.userId}/rooms/${room}/tags`)).tags, {});
  });

  it("hides whom one ignores, but not what they did to the room", async () => {
    const [alice, bob, pest] = await on.people("alice", "bob", "pest");
    const room = await on.room([alice, bob, pest]);
    await bob.put(v3`/user/${bob.userId}/account_data/m.ignored_user_list`, { ignored_users: { [pest.userId]: {} } });
    const { next_batch: since } = await bob.sync();
    await pest.message(room, "spam");
    const other = await pest.createRoom({ preset: "private_chat", invite: [bob.userId] });
    await pest.put(v3`/profile/${pest.userId}/displayname`, { displayname: "Pest" });
    const said = await alice.message(room, "hello");
    const { value } = await bob.syncUntil(since, "alice's message", (answer) => {
      assert.equal(answer.rooms?.invite?.[other], undefined);
      const events = answer.rooms?.join?.[room]?.timeline.events ?? [];
      return events.some((event) => event.event_id === said) && events;
    });
    assert.ok(!value.some((event) => event.content.body === "spam"));
    const bodies = (await bob.history(room)).map((event) => event.content.body);
    assert.ok(!bodies.includes("spam"));
  });

  it("refuses tokens and filters that it never gave", async () => {
    const alice = await on.person("alice");
    for (const query of [{ since: "no token" }, { filter: "{broken" }, { filter: "987654321" }, { timeout: "soon" }]) {
      const { status, body } = await alice.send("GET", v3`/sync`, { query });
      assert.ok(status >= 400 && status < 500 && body.errcode, `${JSON.stringify(query)}: ${status}`);
    }
  });
});

describe("what passes", { concurrency: false }, () => {
  const on = stage("ephemeral");

  const ephemeral = (room, type, probe) => (answer) =>
    answer.rooms?.join?.[room]?.ephemeral?.events.find((event) => event.type === type && probe(event.content));

  it("typing is seen and ends", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await on.room([alice, bob]);
    const { next_batch } = await bob.sync();
    await alice.put(v3`/rooms/${room}/typing/${alice.userId}`, { typing: true, timeout: 30_000 });
    const typing = ephemeral(room, "m.typing", ({ user_ids }) => user_ids.includes(alice.userId));
    const { since } = await bob.syncUntil(next_batch, "alice types", typing);
    await alice.put(v3`/rooms/${room}/typing/${alice.userId}`, { typing: false });
    await bob.syncUntil(
      since,
      "she stops",
      ephemeral(room, "m.typing", ({ user_ids }) => user_ids.length === 0),
    );
    const foreign = await bob.send("PUT", v3`/rooms/${room}/typing/${alice.userId}`, {
      body: { typing: true, timeout: 1000 },
    });
    assert.ok([400, 403].includes(foreign.status), `${foreign.status}`);
  });

  it("receipts are seen by others, private ones only by oneself", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    const room = await on.room([alice, bob]);
    const [first, second] = [await alice.message(room, "one"), await alice.message(room, "two")];
    const { next_batch: aliceSince } = await alice.sync();
    const { next_batch: bobSince } = await bob.sync();

    await bob.post(v3`/rooms/${room}/receipt/m.read/${first}`);
    const receipt = (event, kind, user) => ephemeral(room, "m.receipt", (content) => content[event]?.[kind]?.[user]);
    const { since } = await alice.syncUntil(aliceSince, "bob read one", receipt(first, "m.read", bob.userId));

    await bob.post(v3`/rooms/${room}/receipt/m.read.private/${second}`);
    await bob.syncUntil(bobSince, "his own private receipt", receipt(second, "m.read.private", bob.userId));
    const mark = await alice.message(room, "mark");
    await alice.syncUntil(since, "the mark", (answer) => {
      assert.equal(receipt(second, "m.read.private", bob.userId)(answer), undefined, "a private receipt went out");
      return answer.rooms?.join?.[room]?.timeline.events.some((event) => event.event_id === mark);
    });
  });

  it("the fully read marker is one's own", async () => {
    const alice = await on.person("alice");
    const room = await on.room([alice]);
    const said = await alice.message(room, "one");
    const { next_batch } = await alice.sync();
    await alice.post(v3`/rooms/${room}/read_markers`, { "m.fully_read": said, "m.read": said });
    await alice.syncUntil(next_batch, "the marker", (answer) =>
      answer.rooms?.join?.[room]?.account_data?.events.some(
        (event) => event.type === "m.fully_read" && event.content.event_id === said,
      ),
    );
  });

  it("presence is seen by who shares a room", async () => {
    const [alice, bob] = await on.people("alice", "bob");
    await on.room([alice, bob]);
    const { next_batch } = await bob.sync();
    await alice.put(v3`/presence/${alice.userId}/status`, { presence: "online", status_msg: "by the fire" });
    await bob.syncUntil(next_batch, "alice's status", (answer) =>
      answer.presence?.events.some(
        (event) => event.sender === alice.userId && event.content.status_msg === "by the fire",
      ),
    );
  });
});
