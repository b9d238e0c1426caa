// The plug is pulled while two people talk. Both clients go on by themselves, and agree on what was said.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { Server } from "../lib/server.js";
import { ClientEvent, EventStatus, SyncState, User, ids } from "../lib/user.js";
import { within } from "../lib/wait.js";

/** Messages that each of the two sends before, while and after the server is down. */
const MESSAGES = 40;

/** The SDK asks again 2 to 7 s after a broken connection; twice that, and a loaded machine, in ms. */
const RECONNECT_MS = 60_000;

/** Sends like a person who presses "retry" on what failed, whenever the client shows signs of life. */
async function sendStubbornly(user, room, body) {
  let send = () => user.say(room, body);
  for (;;) {
    try {
      await send();
      return;
    } catch (error) {
      if (error.httpStatus !== undefined) throw error; // the server answered; a retry would not change its mind
    }
    await nextSync(user);
    const failed = user.room(room).getPendingEvents().find((event) => event.status === EventStatus.NOT_SENT);
    if (!failed) return; // only the answer was lost: sync has brought the message itself
    send = () => user.client.resendEvent(failed, user.room(room));
  }
}

/** Resolves when the client's next sync succeeds. */
function nextSync({ name, client }) {
  let look;
  const synced = new Promise((resolve) => {
    look = (state) => state === SyncState.Syncing && resolve();
    client.on(ClientEvent.Sync, look);
  });
  return within(synced, `${name} is connected again`, RECONNECT_MS).finally(() => client.off(ClientEvent.Sync, look));
}

describe("a killed server", { concurrency: false }, () => {
  let server, alice, bob, room;

  before(async () => {
    server = await Server.start("restart");
    [alice, bob] = await Promise.all([User.register(server, "alice"), User.register(server, "bob")]);
    room = (await alice.client.createRoom({ preset: "public_chat" })).room_id;
    await bob.client.joinRoom(room);
    await Promise.all([alice.untilIn(room), bob.untilIn(room)]);
  });

  after(async () => {
    alice?.stop();
    bob?.stop();
    await server?.finish();
  });

  it("loses nothing and repeats nothing for clients that go on by themselves", async () => {
    const third = Math.floor(MESSAGES / 3);
    const talk = async (user, meanwhile) => {
      for (let n = 0; n < MESSAGES; n++) {
        if (n === third) meanwhile();
        await sendStubbornly(user, room, `${user.name} ${n}`);
      }
    };
    let restarted;
    await Promise.all([talk(alice, () => (restarted = server.restart())), talk(bob, () => {})]);
    await restarted;

    const marks = await Promise.all([alice.say(room, "alice is here"), bob.say(room, "bob is here")]);
    const expected = (user) => Array.from({ length: MESSAGES }, (_, n) => `${user.name} ${n}`);
    for (const reader of [alice, bob]) {
      for (const mark of marks) {
        await reader.until(`sees ${mark}`, () => reader.room(room).findEventById(mark), RECONNECT_MS);
      }
      await reader.loadAll(room);
      for (const speaker of [alice, bob]) {
        assert.deepEqual(reader.bodies(room, speaker.id).slice(0, MESSAGES), expected(speaker));
      }
    }
    const truth = (await alice.api.history(room)).map((event) => event.event_id);
    assert.deepEqual(ids(alice.timeline(room)), truth);
    assert.deepEqual(ids(bob.timeline(room)), truth);
  });

  it("knows its users, their sessions, their rooms and their transactions again", async () => {
    const api = alice.api;
    const txn = "said once";
    const said = await api.message(room, "exactly once", txn);
    await api.put(v3`/user/${alice.id}/account_data/org.example.note`, { page: 7 });
    await api.put(v3`/profile/${alice.id}/displayname`, { displayname: "Alice L" });
    await bob.until(
      "sees the name",
      () => bob.room(room).getMember(alice.id).rawDisplayName === "Alice L",
      RECONNECT_MS,
    );
    const { next_batch: since } = await api.sync();
    const before = await bob.api.message(room, "the last thing before");

    await server.restart();

    assert.equal(await api.message(room, "exactly once", txn), said, "a retry is the same event");
    assert.equal((await api.whoami()).user_id, alice.id);
    assert.deepEqual(await api.get(v3`/user/${alice.id}/account_data/org.example.note`), { page: 7 });
    assert.equal((await api.get(v3`/profile/${alice.id}`)).displayname, "Alice L");

    const news = await api.sync({ since });
    const timeline = news.rooms.join[room].timeline.events.map((event) => event.event_id);
    assert.deepEqual(timeline, [before], "a token from before the restart misses and repeats nothing");
  });

  it("survives being killed while it starts", async () => {
    for (let round = 0; round < 5; round++) {
      await server.kill();
      server.spawn();
    }
    await server.ready();
    assert.equal((await alice.api.whoami()).user_id, alice.id);
  });
});
