// Two people meet, talk, edit the room, part and quarrel, through an ordinary client.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Server } from "../lib/server.js";
import { User, ids } from "../lib/user.js";

/** Messages that each of the two sends. */
const MESSAGES = 200;

const numbered = (who) => Array.from({ length: MESSAGES }, (_, n) => `${who} ${n}`);

describe("a conversation", { concurrency: false }, () => {
  let server, alice, bob, room;

  before(async () => {
    server = await Server.start("conversation");
    [alice, bob] = await Promise.all([User.register(server, "alice"), User.register(server, "bob")]);
  });

  after(async () => {
    alice?.stop();
    bob?.stop();
    await server?.finish();
  });

  it("begins with an invitation that the other sees and accepts", async () => {
    const created = await alice.client.createRoom({
      name: "Hearth side",
      topic: "Two chairs",
      preset: "private_chat",
      is_direct: true,
      invite: [bob.id],
    });
    room = created.room_id;
    const invited = await bob.untilIn(room, "invite");
    assert.equal(invited.name, "Hearth side");
    assert.equal(invited.getDMInviter(), alice.id);

    await bob.client.joinRoom(room);
    await bob.untilIn(room);
    await alice.untilMember(room, bob.id, "join");
    assert.equal(bob.stateContent(room, "m.room.topic").topic, "Two chairs");
  });

  it(`carries ${MESSAGES} messages each way in order`, async () => {
    const talk = async (user) => {
      for (const body of numbered(user.name)) await user.say(room, body);
    };
    await Promise.all([talk(alice), talk(bob)]);
    const marks = await Promise.all([alice.say(room, "alice is done"), bob.say(room, "bob is done")]);

    for (const reader of [alice, bob]) {
      for (const mark of marks) await reader.untilSees(room, mark);
      await reader.loadAll(room);
      for (const speaker of [alice, bob]) {
        assert.deepEqual(reader.bodies(room, speaker.id).slice(0, MESSAGES), numbered(speaker.name));
      }
    }
  });

  it("reads the same forwards, backwards and by both", async () => {
    const truth = await alice.api.history(room, { limit: 37 });
    assert.equal(truth[0].type, "m.room.create");
    const order = truth.map((event) => event.event_id);
    assert.equal(new Set(order).size, order.length, "no event twice");

    const forwards = [];
    let from;
    do {
      const page = await bob.api.messages(room, { dir: "f", limit: 41, from });
      forwards.push(...page.chunk.map((event) => event.event_id));
      from = page.end;
    } while (from !== undefined);
    assert.deepEqual(forwards, order);

    await bob.untilSees(room, order.at(-1));
    assert.deepEqual(ids(alice.timeline(room)), order);
    assert.deepEqual(ids(bob.timeline(room)), order);
  });

  it("takes a word back", async () => {
    const said = await alice.say(room, "I should not have said this");
    const seen = await bob.untilSees(room, said);
    assert.equal(seen.getContent().body, "I should not have said this");

    await alice.client.redactEvent(room, said, undefined, { reason: "regret" });
    await bob.until("sees it redacted", () => seen.isRedacted());
    assert.deepEqual(seen.getContent(), {});

    const stored = await bob.client.fetchRoomEvent(room, said);
    assert.deepEqual(stored.content, {});
    assert.equal(stored.unsigned.redacted_because.content.reason, "regret");
  });

  it("shows a change of the room's state to the other", async () => {
    await alice.client.setRoomName(room, "By the fire");
    await alice.client.setRoomTopic(room, "Three chairs");
    await bob.until("sees the new name", () => bob.room(room).name === "By the fire");
    await bob.until("sees the new topic", () => bob.stateContent(room, "m.room.topic").topic === "Three chairs");

    await assert.rejects(bob.client.setRoomName(room, "Bob's"), { errcode: "M_FORBIDDEN" });
    await alice.client.setPowerLevel(room, bob.id, 50);
    await bob.until("sees his power", () => bob.room(room).getMember(bob.id).powerLevel === 50);
    await bob.client.setRoomName(room, "Bob's");
    await alice.until("sees Bob's name", () => alice.room(room).name === "Bob's");
  });

  it("shows a changed profile to the other", async () => {
    await alice.client.setDisplayName("Alice Liddell");
    await bob.until("sees the new name", () => bob.room(room).getMember(alice.id).rawDisplayName === "Alice Liddell");
    assert.equal((await bob.client.getProfileInfo(alice.id)).displayname, "Alice Liddell");

    await alice.client.setAvatarUrl("mxc://localhost/cat");
    await bob.until(
      "sees the picture",
      () => bob.room(room).getMember(alice.id).getMxcAvatarUrl() === "mxc://localhost/cat",
    );
  });

  it("lets one leave and come back by invitation only", async () => {
    await bob.client.leave(room);
    await alice.untilMember(room, bob.id, "leave");
    await assert.rejects(bob.api.message(room, "from outside"), { errcode: "M_FORBIDDEN" });
    await assert.rejects(bob.client.joinRoom(room), { errcode: "M_FORBIDDEN" });

    await alice.client.invite(room, bob.id);
    await bob.untilIn(room, "invite");
    await bob.client.joinRoom(room);
    await bob.untilIn(room);
    const hello = await alice.say(room, "welcome back");
    await bob.untilSees(room, hello);
  });

  it("lets one be kicked", async () => {
    await alice.client.kick(room, bob.id, "manners");
    await bob.untilIn(room, "leave");
    const event = bob.room(room).currentState.getStateEvents("m.room.member", bob.id);
    assert.equal(event.getSender(), alice.id);
    assert.equal(event.getContent().reason, "manners");
  });

  it("keeps out who is banned until the ban is lifted", async () => {
    await alice.client.ban(room, bob.id, "enough");
    await bob.untilIn(room, "ban");
    await assert.rejects(alice.client.invite(room, bob.id), { httpStatus: 403 });
    await assert.rejects(bob.client.joinRoom(room), { httpStatus: 403 });

    const secret = await alice.say(room, "he cannot read this");
    await assert.rejects(bob.client.fetchRoomEvent(room, secret), (error) => [403, 404].includes(error.httpStatus));

    await alice.client.unban(room, bob.id);
    await alice.client.invite(room, bob.id);
    await bob.untilIn(room, "invite");
    await bob.client.joinRoom(room);
    await bob.untilIn(room);
  });
});
