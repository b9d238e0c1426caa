// Rooms shared with a stock Synapse, of each version, made on either side.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { AT_ONCE, SIDES, crosses, eventAt, joinVia, memberIs, pair, sameState, until } from "../lib/pair.js";

const VERSIONS = ["1", "6", "9", "10", "11", "12"];

/** Messages each way. */
const MESSAGES = 10;

/** What one says in order: event ids. */
async function talk(api, room, count = MESSAGES) {
  const sent = [];
  for (let n = 0; n < count; n++) sent.push(await api.message(room, `${api.userId} ${n}`));
  return sent;
}

/** Waits until the event has lost its content. */
function redactedAt(api, room, eventId) {
  const look = async () => assert.deepEqual((await api.get(v3`/rooms/${room}/event/${eventId}`)).content, {});
  return crosses(look, `${api.userId} no longer sees what ${eventId} said`);
}

describe("rooms", { concurrency: AT_ONCE }, () => {
  const servers = pair("federation-rooms");

  for (const side of SIDES) {
    for (const version of VERSIONS) {
      it(`of version ${version} made on ${side}`, async () => {
        const [home, away] = await servers.people(side);
        const room = await home.createRoom({
          room_version: version,
          preset: "private_chat",
          name: `Version ${version}`,
          invite: [away.userId],
        });
        const invited = await until(away, room, "invite");
        assert.ok(
          invited.invite_state.events.some((event) => event.type === "m.room.name"),
          "the invite names the room",
        );

        await joinVia(away, room, servers[side].name);
        await memberIs(home, room, away.userId, "join");
        await sameState(room, home, away);

        const [ours, theirs] = await Promise.all([talk(home, room), talk(away, room)]);
        await eventAt(home, room, theirs.at(-1));
        await eventAt(away, room, ours.at(-1));
        for (const reader of [home, away]) {
          const seen = (await reader.history(room)).map((event) => event.event_id);
          for (const sent of [ours, theirs]) {
            assert.deepEqual(
              seen.filter((id) => sent.includes(id)),
              sent,
              `${reader.userId} sees all in order`,
            );
          }
        }

        await home.put(v3`/rooms/${room}/redact/${ours[0]}/redaction`, { reason: "a slip" });
        await redactedAt(away, room, ours[0]);
        await away.put(v3`/rooms/${room}/redact/${theirs[0]}/redaction`, {});
        await redactedAt(home, room, theirs[0]);

        await home.setState(room, "m.room.topic", { topic: "of both" });
        await sameState(room, home, away);

        await away.post(v3`/rooms/${room}/leave`);
        await memberIs(home, room, away.userId, "leave");
      });
    }
  }

  it("are found by an alias of the other server", async () => {
    for (const side of SIDES) {
      const [home, away] = await servers.people(side);
      const local = `alias_${side}`;
      const room = await home.createRoom({ preset: "public_chat", room_alias_name: local });
      const found = await away.get(v3`/directory/room/${`#${local}:${servers[side].name}`}`);
      assert.equal(found.room_id, room);
      assert.equal(await away.join(`#${local}:${servers[side].name}`), room);
      await sameState(room, home, away);
    }
  });
});
