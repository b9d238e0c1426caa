// A room with many members on Synapse that hearth joins without them (`omit_members`): usable at once, complete later.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { describe, it } from "node:test";
import { Api, v3 } from "../lib/api.js";
import { crosses, eventAt, joinVia, pair, sameState } from "../lib/pair.js";

/** People in the room before hearth comes. */
const MEMBERS = 30;

/** Registrations at once. */
const REGISTRATIONS = 6;

/** A room of the first with all the others in it, each under a name of their own. */
async function crowd(people) {
  const [home, ...others] = people;
  const room = await home.createRoom({ preset: "public_chat", name: "Crowd", topic: "Many" });
  for (const person of others) {
    const name = { membership: "join", displayname: `I am ${person.userId}` };
    await person.join(room);
    await person.setState(room, "m.room.member", name, person.userId);
  }
  // Some are no longer there.
  await others[0].post(v3`/rooms/${room}/leave`);
  await home.post(v3`/rooms/${room}/ban`, { user_id: others[1].userId });
  return room;
}

/** The members as their server tells them: `[user, membership, display name, event]`, in order. */
async function members(api, room) {
  const { chunk } = await api.get(v3`/rooms/${room}/members`);
  const told = (event) => [event.state_key, event.content.membership, event.content.displayname, event.event_id];
  return chunk.map(told).sort(([a], [b]) => (a < b ? -1 : 1));
}

/** The lines in which hearth says that a room got the members that its join had left out. */
const completions = (server, room) =>
  readFileSync(server.logFile, "utf8")
    .split("\n")
    .filter((line) => line.includes("the room has its members") && line.includes(room));

describe("rooms joined without their members", () => {
  const servers = pair("federation-partial");
  let people = [];
  const residents = async () => {
    while (people.length < MEMBERS) {
      const more = Array.from({ length: REGISTRATIONS }, () => servers.person("synapse", "member"));
      people = people.concat(await Promise.all(more));
    }
    return people;
  };

  it("are usable at once and get them from Synapse", async () => {
    const all = await residents();
    const [home, speaker] = [all[0], all.at(-1)];
    const room = await crowd(all);
    const third = await servers.another("federation-partial-third");
    const guest = await Api.register(third.baseUrl, "guest");
    await joinVia(guest, room, servers.synapse.name);
    const away = await servers.person("hearth", "away");
    await joinVia(away, room, servers.synapse.name);

    // Nothing here waits for the members.
    const said = await away.message(room, "first words");
    const lazy = { room: { state: { lazy_load_members: true } } };
    const { rooms } = await away.sync({ filter: lazy });
    const state = rooms.join[room].state.events.concat(rooms.join[room].timeline.events);
    assert.ok(
      state.some((event) => event.type === "m.room.name" && event.content.name === "Crowd"),
      "the room is shown, with its name",
    );
    assert.equal((await away.state(room, "m.room.topic")).topic, "Many");

    const answer = await speaker.message(room, "an answer");
    for (const hearer of [home, guest]) await eventAt(hearer, room, said);
    await eventAt(away, room, answer);
    await eventAt(away, room, await guest.message(room, "from the third"));
    await sameState(room, home, away);
    await sameState(room, home, guest);
    assert.deepEqual(await members(away, room), await members(home, room));
    assert.equal(Object.keys((await away.get(v3`/rooms/${room}/joined_members`)).joined).length, all.length);
    assert.equal(completions(servers.hearth, room).length, 1, "Synapse left the members out, and gave them later");
  });

  it("wait for them while nobody can tell", async () => {
    const all = await residents();
    const home = all[0];
    const room = await crowd(all);
    const away = await servers.person("hearth", "away");
    await joinVia(away, room, servers.synapse.name);
    servers.cut();
    const said = await away.message(room, "is anybody there?");
    assert.equal((await away.get(v3`/rooms/${room}/event/${said}`)).content.body, "is anybody there?");
    await servers.hearth.restart();
    servers.mend();

    await crosses(() => home.get(v3`/rooms/${room}/event/${said}`), "Synapse hears what was said meanwhile");
    await sameState(room, home, away);
    assert.deepEqual(await members(away, room), await members(home, room));
    assert.equal(completions(servers.hearth, room).length, 1, "the members came later");
    const answer = await home.message(room, "we are");
    await eventAt(away, room, answer);
  });
});
