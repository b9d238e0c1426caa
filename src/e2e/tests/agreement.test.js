// Whatever happens in rooms, who follows by sync knows what the server says when it is asked.

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { Follower } from "../lib/follower.js";
import { Dice } from "../lib/random.js";
import { stage } from "../lib/stage.js";

const SEED = Number(process.env.HEARTH_E2E_SEED ?? randomInt(2 ** 31));
const PEOPLE = 5;
const ROOMS = 3;
const CHECKS = 12;
const STEPS = 25;

/** What people do, and how often. Much of it is refused: that must change nothing. */
const DEEDS = {
  message: (at) => at.me.message(at.room, `${at.n}`),
  topic: (at) => at.me.setState(at.room, "m.room.topic", { topic: `${at.n}` }),
  note: (at) => at.me.setState(at.room, "org.example.note", { n: at.n }, `${at.dice.between(0, 2)}`),
  rename: (at) => at.me.put(v3`/profile/${at.me.userId}/displayname`, { displayname: `${at.n}` }),
  join: (at) => at.me.join(at.room),
  leave: (at) => at.me.post(v3`/rooms/${at.room}/leave`),
  knock: (at) => at.me.post(v3`/knock/${at.room}`),
  invite: (at) => at.me.invite(at.room, at.other.userId),
  kick: (at) => at.me.post(v3`/rooms/${at.room}/kick`, { user_id: at.other.userId }),
  ban: (at) => at.me.post(v3`/rooms/${at.room}/ban`, { user_id: at.other.userId }),
  unban: (at) => at.me.post(v3`/rooms/${at.room}/unban`, { user_id: at.other.userId }),
  rules: (at) => {
    const join_rule = at.dice.pick(["public", "invite", "knock"]);
    return at.me.setState(at.room, "m.room.join_rules", { join_rule });
  },
};
const WEIGHTS = {
  message: 30,
  topic: 6,
  note: 10,
  rename: 4,
  join: 16,
  leave: 8,
  knock: 3,
  invite: 6,
  kick: 3,
  ban: 2,
  unban: 4,
  rules: 2,
};

describe(`agreement (HEARTH_E2E_SEED=${SEED})`, { concurrency: false }, () => {
  const on = stage("agreement");

  async function check(follower, what) {
    const truth = await follower.truth();
    const sorted = (ids) => [...ids].sort();
    assert.deepEqual(sorted(follower.joined.keys()), sorted(truth.keys()), `${what}: its rooms`);
    for (const [id, { state, history }] of truth) {
      const known = follower.joined.get(id);
      assert.deepEqual(
        Object.fromEntries([...known.state].sort()),
        Object.fromEntries([...state].sort()),
        `${what}: state`,
      );
      const from = history.indexOf(known.timeline[0]);
      assert.ok(from >= 0, `${what}: begins with an event of the room`);
      assert.deepEqual(known.timeline, history.slice(from), `${what}: timeline`);
    }
  }

  /** Lets people act, `width` at a time, while some of them sync; then compares every follower with the server. */
  async function act(width, dice) {
    const people = await on.people(...Array.from({ length: PEOPLE }, () => "person"));
    const rooms = [];
    for (let n = 0; n < ROOMS; n++) rooms.push(await people[n].createRoom({ preset: "public_chat" }));
    const followers = people.flatMap((api, n) => [
      new Follower(api, { stateAfter: false, limit: 2 + n }),
      new Follower(api, { stateAfter: true, limit: 1 + 3 * n }),
    ]);
    let refused = 0;
    const deed = async (n) => {
      const at = { me: dice.pick(people), other: dice.pick(people), room: dice.pick(rooms), n, dice };
      await DEEDS[dice.weighted(WEIGHTS)](at).catch((error) => {
        if (!(error.status >= 400 && error.status < 500)) throw error;
        refused += 1;
      });
    };
    for (let round = 0; round < CHECKS; round++) {
      for (let n = 0; n < STEPS; n += width) {
        const deeds = Array.from({ length: width }, (_, k) => deed(round * STEPS + n + k));
        const reader = dice.chance(0.2 * width) ? dice.pick(followers).step() : undefined;
        await Promise.all([...deeds, reader]);
      }
      for (const [n, follower] of followers.entries()) {
        await follower.drain();
        await check(follower, `round ${round}, ${follower.api.userId}, follower ${n}`);
      }
    }
    assert.ok(refused < 0.95 * CHECKS * STEPS, "something happened");
  }

  it("holds between sync and what the server says, after any sequence of deeds", () => act(1, new Dice(SEED)));

  it("holds when they all act at once", () => act(6, new Dice(SEED + 1)));
});
