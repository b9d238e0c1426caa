// What was said before a server came, while it was away, and while the wire was cut.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { SIDES, crosses, joinVia, memberIs, other, pair, sameState, speakUntilHeard } from "../lib/pair.js";

/** Said before the other server joins: more than a server gives at once. */
const BEFORE = 120;

/** Said while the other server is down, by so many at once. */
const [MISSED, SPEAKERS] = [500, 5];

/** Each side says so much on its own branch. */
const APART = 10;

/** Of each kind of rules by which forks meet again: resolution 1, 2 (with and without event ids of their own), 2.1. */
const VERSIONS = ["1", "2", "6", "11", "12"];

const said = (events) => events.filter((event) => event.type === "m.room.message");

const bodies = (events) => said(events).map((event) => event.content.body);

async function say(api, room, words, count) {
  for (let n = 0; n < count; n++) await api.message(room, `${words} ${n}`);
}

const numbered = (words, count) => Array.from({ length: count }, (_, n) => `${words} ${n}`);

/** Waits until both servers tell the same messages, whatever the order of those that were said at once. */
function sameMessages(room, one, two) {
  const ids = async (api) => said(await api.history(room)).map((event) => event.event_id);
  const compare = async () => {
    const [ours, theirs] = await Promise.all([ids(one), ids(two)]);
    const lacking = (some, others) => others.filter((id) => !some.includes(id));
    const missing = [lacking(ours, theirs), lacking(theirs, ours)];
    if (missing.flat().length > 0) throw new Error(`not there: ${JSON.stringify(missing)}`);
    for (const each of [ours, theirs]) assert.equal(new Set(each).size, each.length, "each once");
  };
  return crosses(compare, `${one.userId} and ${two.userId} see the same messages`);
}

/** Each speaker's words are all there and in order. */
async function assertHeard(api, room, speakers, count) {
  const heard = bodies(await api.history(room));
  for (const speaker of speakers) {
    const theirs = heard.filter((body) => body.startsWith(`${speaker.userId} `));
    assert.deepEqual(theirs, numbered(speaker.userId, count), `${api.userId} has what ${speaker.userId} said`);
  }
}

describe("history", { concurrency: false }, () => {
  const servers = pair("federation-history");

  for (const side of SIDES) {
    it(`of ${side} from before the join is paged back to`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat" });
      await say(home, room, "before", BEFORE);
      await joinVia(away, room, servers[side].name);
      assert.deepEqual(bodies(await away.history(room, { limit: 40 })), numbered("before", BEFORE));
    });

    it(`of ${side} is fetched by the other one after it was down`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat" });
      const others = await Promise.all(Array.from({ length: SPEAKERS - 1 }, () => servers.person(side, "speaker")));
      for (const one of others) await one.join(room);
      await joinVia(away, room, servers[side].name);
      await memberIs(home, room, away.userId, "join");

      const [absent, speakers] = [servers[other(side)], [home, ...others]];
      await absent.stop();
      await Promise.all(speakers.map((one) => say(one, room, one.userId, MISSED / SPEAKERS)));
      await home.setState(room, "m.room.topic", { topic: "what was missed" });
      await absent.start();

      await Promise.all([speakUntilHeard(away, home, room), speakUntilHeard(home, away, room)]);
      await sameState(room, home, away);
      await assertHeard(away, room, speakers, MISSED / SPEAKERS);
      await sameMessages(room, home, away);
    });
  }

  it("forks while the wire is cut, and meets again in one state", async (t) => {
    const [home, away] = await servers.people("hearth");
    const rooms = await Promise.all(VERSIONS.map((version) => shared(home, away, version)));

    servers.cut();
    t.after(() => servers.mend());
    const write = async (api, room) => {
      await say(api, room, api.userId, APART);
      await api.setState(room, "m.room.topic", { topic: `the topic of ${api.userId}` });
      await api.setState(room, "m.room.name", { name: `the name of ${api.userId}` });
      await api.setState(room, "org.example.only", { of: api.userId }, api.userId);
    };
    await Promise.all([home, away].flatMap((api) => rooms.map((room) => write(api, room))));
    servers.mend();

    await Promise.all(
      rooms.map(async (room) => {
        await Promise.all([speakUntilHeard(home, away, room), speakUntilHeard(away, home, room)]);
        const state = await sameState(room, home, away);
        for (const api of [home, away]) {
          assert.ok(state[`org.example.only|${api.userId}`], `what only ${api.userId} set stands`);
          await assertHeard(api, room, [home, away], APART);
        }
        await sameMessages(room, home, away);
      }),
    );
  });

  /** A room of this version, the home of which is hearth, in which both may do everything. */
  async function shared(home, away, version) {
    const room = await home.createRoom({
      preset: "public_chat",
      room_version: version,
      power_level_content_override: { state_default: 0, events: {} },
    });
    await joinVia(away, room, servers.hearth.name);
    await memberIs(home, room, away.userId, "join");
    await sameState(room, home, away);
    return room;
  }
});
