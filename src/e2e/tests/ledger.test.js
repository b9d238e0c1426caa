// The crash ledger's own check: each way of losing something must be noticed, and a sound store must not be blamed.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Checker } from "../crash/check.js";
import { Ledger } from "../crash/ledger.js";
import { Reader } from "../crash/reader.js";
import { Dice } from "../lib/random.js";

const ROOM = "!room:test";
const WRITER = { name: "writer0", api: { userId: "@writer0:test" } };

const message = (sequence, id = `$m${sequence}`) => ({
  event_id: id,
  type: "m.room.message",
  sender: WRITER.api.userId,
  content: { sequence },
});

/** A server that shows these events, oldest first, two a page. */
function server(events, state = {}) {
  return {
    async messages(_room, { dir, from = 0 }) {
      const ordered = dir === "b" ? events.toReversed() : events;
      const chunk = ordered.slice(from, from + 2);
      return { chunk, end: from + 2 < ordered.length ? from + 2 : undefined };
    },
    async history() {
      return events;
    },
    async get(path) {
      if (path in state) return state[path];
      throw Object.assign(new Error(path), { body: { errcode: "M_NOT_FOUND" } });
    },
  };
}

/** What is found if the ledger holds messages 0 to `acknowledged` - 1 and the server shows `events`. */
async function violations(events, { acknowledged, seen = events, state, registers = [] }) {
  const ledger = new Ledger();
  for (let n = 0; n < acknowledged; n++) {
    const entry = ledger.begin({ kind: "message", writer: WRITER.name, room: ROOM, sequence: n, txn: `m${n}` });
    ledger.acknowledge(entry, `$m${n}`);
  }
  const api = server(events, state);
  for (const { name, read, value, acknowledge } of registers) {
    ledger.beginRegister(name, { read, value, writer: { api } });
    if (acknowledge) ledger.acknowledgeRegister(name);
  }
  const checker = new Checker({ api, rooms: [ROOM], writers: [WRITER], ledger });
  const reader = new Reader({ api, rooms: [ROOM], ledger });
  reader.seen.get(ROOM).push(...seen.map((event) => event.event_id));
  await checker.step();
  checker.reader(reader);
  await checker.everything(reader);
  return ledger.violations;
}

describe("the ledger's check", () => {
  const [zero, one, two] = [message(0), message(1), message(2)];

  it("is content with what was acknowledged, and with one more that was not", async () => {
    assert.deepEqual(await violations([zero, one, two], { acknowledged: 3 }), []);
    assert.deepEqual(await violations([zero, one, two], { acknowledged: 2 }), []);
  });

  it("notices an event that is gone", async () => {
    assert.match((await violations([zero, two], { acknowledged: 3 })).join("\n"), /\$m1\) is gone/);
    assert.match((await violations([zero, one], { acknowledged: 3 })).join("\n"), /\$m2\) is gone/);
  });

  it("notices a message that was made twice", async () => {
    const found = await violations([zero, one, message(1, "$again"), two], { acknowledged: 3 });
    assert.match(found.join("\n"), /1 where 2 was due \(\$again\)/);
  });

  it("notices messages out of order", async () => {
    assert.match((await violations([one, zero, two], { acknowledged: 3 })).join("\n"), /1 where 0 was due/);
  });

  it("notices one event on two pages", async () => {
    assert.match((await violations([zero, one, one], { acknowledged: 2 })).join("\n"), /shows \$m1 twice/);
  });

  it("notices a reader who missed, repeated or dreamt an event", async () => {
    const all = [zero, one, two];
    for (const seen of [
      [zero, two],
      [zero, one],
      [zero, one, one, two],
      [...all, message(3, "$dream")],
    ]) {
      assert.match((await violations(all, { acknowledged: 3, seen })).join("\n"), /the reader has/);
    }
    assert.deepEqual(await violations(all, { acknowledged: 3, seen: [one, two] }), [], "it may have come later");
  });

  it("notices a value that is older than its acknowledgement", async () => {
    const register = { name: "note", read: "/note", acknowledge: true };
    const registers = [
      { ...register, value: { n: 1 } },
      { ...register, value: { n: 2 } },
    ];
    const look = (value) => violations([], { acknowledged: 0, state: { "/note": value }, registers });
    assert.deepEqual(await look({ n: 2 }), []);
    assert.match((await look({ n: 1 })).join("\n"), /note is \{"n":1\}/);
    registers[1].acknowledge = false;
    assert.deepEqual(await look({ n: 1 }), [], "the newer one was not acknowledged");
    assert.deepEqual(await look({ n: 2 }), [], "but may have happened");
  });
});

describe("dice", () => {
  it("fall the same for the same seed, and within their bounds", () => {
    const throws = (seed) =>
      Array.from(
        { length: 100 },
        (
          (dice) => () =>
            dice.between(3, 9)
        )(new Dice(seed)),
      );
    assert.deepEqual(throws(7), throws(7));
    assert.notDeepEqual(throws(7), throws(8));
    assert.deepEqual([...new Set(throws(7))].sort(), [3, 4, 5, 6, 7, 8, 9]);
  });
});
