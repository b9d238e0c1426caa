// What passes: typing and receipts, and what profiles say, across servers.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { AT_ONCE, CROSSING_MS, SIDES, eventAt, joinVia, memberIs, pair } from "../lib/pair.js";

const ephemeral = (answer, room, type) =>
  answer.rooms?.join?.[room]?.ephemeral?.events?.find((event) => event.type === type);

describe("what passes", { concurrency: AT_ONCE }, () => {
  const servers = pair("federation-ephemeral");

  for (const side of SIDES) {
    it(`typing and receipts cross from ${side}`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat" });
      await joinVia(away, room, servers[side].name);
      await memberIs(home, room, away.userId, "join");
      const { next_batch: since } = await away.sync();

      await home.put(v3`/rooms/${room}/typing/${home.userId}`, { typing: true, timeout: 30_000 });
      const types = (answer) => ephemeral(answer, room, "m.typing")?.content.user_ids.includes(home.userId);
      await away.syncUntil(since, `${home.userId} types`, types, { ms: CROSSING_MS });

      const read = await away.message(room, "read this");
      await eventAt(home, room, read);
      await home.post(v3`/rooms/${room}/receipt/m.read/${read}`);
      const hasRead = (answer) => ephemeral(answer, room, "m.receipt")?.content[read]?.["m.read"]?.[home.userId];
      await away.syncUntil(since, `${home.userId} has read it`, hasRead, { ms: CROSSING_MS });
    });

    it(`a profile of ${side} is asked for and its change is seen`, async () => {
      const [home, away] = await servers.people(side);
      await home.put(v3`/profile/${home.userId}/displayname`, { displayname: "First" });
      assert.equal((await away.get(v3`/profile/${home.userId}`)).displayname, "First");
      const room = await home.createRoom({ preset: "public_chat" });
      await joinVia(away, room, servers[side].name);
      const { next_batch: since } = await away.sync();
      await home.put(v3`/profile/${home.userId}/displayname`, { displayname: "Second" });
      const renamed = (answer) =>
        answer.rooms?.join?.[room]?.timeline.events.some((event) => event.content.displayname === "Second");
      await away.syncUntil(since, "the new name", renamed, { ms: CROSSING_MS });
    });

    it(`the public rooms of ${side} are listed`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat", visibility: "public", name: `Open at ${side}` });
      const found = await away.ok("POST", v3`/publicRooms`, { query: { server: servers[side].name }, body: {} });
      assert.ok(found.chunk.some((entry) => entry.room_id === room));
    });
  }
});
