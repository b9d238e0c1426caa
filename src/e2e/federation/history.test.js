// What was said before a server came, while it was away, and while the wire was cut.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SIDES, joinVia, memberIs, other, pair, sameState, speakUntilHeard } from "../lib/pair.js";

/** Said before the other server joins. */
const BEFORE = 150;

/** Said while the other server is down. */
const MISSED = 500;

/** Each side says and sets so much on its own branch. */
const APART = 20;

const bodies = (events) => events.filter((event) => event.type === "m.room.message").map((event) => event.content.body);

async function say(api, room, words, count) {
  for (let n = 0; n < count; n++) await api.message(room, `${words} ${n}`);
}

const numbered = (words, count) => Array.from({ length: count }, (_, n) => `${words} ${n}`);

describe("history", { concurrency: false }, () => {
  const servers = pair("federation-history");

  for (const side of SIDES) {
    it(`of ${side} from before the join is paged back to`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat" });
      await say(home, room, "before", BEFORE);
      await joinVia(away, room, servers[side].name);
      const seen = bodies(await away.history(room, { limit: 40 }));
      assert.deepEqual(seen, numbered("before", BEFORE));
    });

    it(`of ${side} is fetched by the other one after it was down`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat" });
      await joinVia(away, room, servers[side].name);
      await memberIs(home, room, away.userId, "join");
      const absent = servers[other(side)];
      await absent.stop();
      await say(home, room, "missed", MISSED);
      await absent.start();
      await speakUntilHeard(home, away, room);
      await sameState(room, home, away);
      const missed = bodies(await away.history(room)).filter((body) => body.startsWith("missed"));
      assert.deepEqual(missed, numbered("missed", MISSED));
    });
  }

  it("forks while the wire is cut, and meets again in one state", async () => {
    const [home, away] = await servers.people("hearth");
    const room = await home.createRoom({
      preset: "public_chat",
      room_version: "11",
      power_level_content_override: { state_default: 0 },
    });
    await joinVia(away, room, servers.hearth.name);
    await memberIs(home, room, away.userId, "join");
    await sameState(room, home, away);

    servers.cut();
    for (const api of [home, away]) {
      await say(api, room, `alone ${api.userId}`, APART);
      await api.setState(room, "m.room.topic", { topic: `the topic of ${api.userId}` });
      await api.setState(room, "m.room.name", { name: `the name of ${api.userId}` });
      await api.setState(room, "org.example.only", { of: api.userId }, api.userId);
    }
    servers.mend();

    await Promise.all([speakUntilHeard(home, away, room), speakUntilHeard(away, home, room)]);
    await sameState(room, home, away);
    for (const api of [home, away]) {
      const seen = bodies(await api.history(room));
      for (const speaker of [home, away]) {
        const theirs = seen.filter((body) => body.startsWith(`alone ${speaker.userId}`));
        assert.deepEqual(
          theirs,
          numbered(`alone ${speaker.userId}`, APART),
          `${api.userId} has what ${speaker.userId} said`,
        );
      }
    }
  });
});
