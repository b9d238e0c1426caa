// Memberships across servers: knock, restricted join, kick, ban, invitations declined, from either side.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { AT_ONCE, CROSSING_MS, SIDES, joinVia, memberIs, pair, sameState, until } from "../lib/pair.js";

describe("memberships", { concurrency: AT_ONCE }, () => {
  const servers = pair("federation-members");

  for (const side of SIDES) {
    const via = () => servers[side].name;

    it(`a knock at ${side}, and the door that opens`, async () => {
      const [home, away] = await servers.people(side);
      const rule = { type: "m.room.join_rules", content: { join_rule: "knock" } };
      const room = await home.createRoom({ preset: "private_chat", name: "Knock", initial_state: [rule] });
      await away.ok("POST", v3`/knock/${room}`, {
        query: { server_name: via(), via: via() },
        body: { reason: "cold" },
      });
      await memberIs(home, room, away.userId, "knock");
      await until(away, room, "knock");
      await home.invite(room, away.userId);
      await until(away, room, "invite");
      await joinVia(away, room, via());
      await sameState(room, home, away);
    });

    it(`a restricted room of ${side}`, async () => {
      const [home, away] = await servers.people(side);
      const space = await home.createRoom({ preset: "public_chat", creation_content: { type: "m.space" } });
      const allow = [{ type: "m.room_membership", room_id: space }];
      const rule = { type: "m.room.join_rules", content: { join_rule: "restricted", allow } };
      const room = await home.createRoom({ preset: "private_chat", initial_state: [rule] });
      const refused = await away.send("POST", v3`/join/${room}`, {
        query: { server_name: via(), via: via() },
        body: {},
      });
      assert.equal(refused.status, 403);
      await joinVia(away, space, via());
      await memberIs(home, space, away.userId, "join");
      await joinVia(away, room, via());
      await sameState(room, home, away);
    });

    it(`an invitation from ${side} that is declined`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "private_chat", invite: [away.userId] });
      await until(away, room, "invite");
      await away.post(v3`/rooms/${room}/leave`);
      await memberIs(home, room, away.userId, "leave");
    });

    it(`an invitation from ${side} that is taken back`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "private_chat", invite: [away.userId] });
      const { next_batch: since } = await away.sync();
      await until(away, room, "invite");
      await home.post(v3`/rooms/${room}/kick`, { user_id: away.userId });
      await away.syncUntil(since, "the invitation is gone", (answer) => answer.rooms?.leave?.[room], {
        ms: CROSSING_MS,
      });
    });

    it(`kick and ban from ${side}`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat" });
      await joinVia(away, room, via());
      await memberIs(home, room, away.userId, "join");
      await home.post(v3`/rooms/${room}/kick`, { user_id: away.userId, reason: "enough" });
      await memberIs(away, room, away.userId, "leave");
      await joinVia(away, room, via());
      await memberIs(home, room, away.userId, "join");
      const { next_batch: since } = await away.sync();
      await home.post(v3`/rooms/${room}/ban`, { user_id: away.userId });
      const gone = (answer) => answer.rooms?.leave?.[room]?.timeline.events.at(-1)?.content.membership === "ban";
      await away.syncUntil(since, "the ban", gone, { ms: CROSSING_MS });
      const refused = await away.send("POST", v3`/join/${room}`, {
        query: { server_name: via(), via: via() },
        body: {},
      });
      assert.equal(refused.status, 403);
    });

    it(`a guest of ${side} with power bans one of the house`, async () => {
      const [home, away] = await servers.people(side);
      const rude = await servers.person(side, "rude");
      const room = await home.createRoom({ preset: "public_chat", room_version: "11" });
      await rude.join(room);
      await joinVia(away, room, via());
      const levels = await home.state(room, "m.room.power_levels");
      levels.users[away.userId] = 50;
      await home.setState(room, "m.room.power_levels", levels);
      await sameState(room, home, away);
      await away.post(v3`/rooms/${room}/ban`, { user_id: rude.userId });
      await memberIs(home, room, rude.userId, "ban");
      await sameState(room, home, away);
    });
  }

  // The other way round, Synapse keeps what its user takes back to itself.
  it("a knock at synapse that is taken back", async () => {
    const [home, away] = await servers.people("synapse");
    const rule = { type: "m.room.join_rules", content: { join_rule: "knock" } };
    const room = await home.createRoom({ preset: "private_chat", initial_state: [rule] });
    await away.ok("POST", v3`/knock/${room}`, {
      query: { server_name: servers.synapse.name, via: servers.synapse.name },
      body: {},
    });
    await memberIs(home, room, away.userId, "knock");
    await away.post(v3`/rooms/${room}/leave`);
    await memberIs(home, room, away.userId, "leave");
  });
});
