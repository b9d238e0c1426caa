// Who may read what: each history visibility against each moment at which a reader came and went.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { stage } from "../lib/stage.js";

/**
 * "If the history_visibility was set to shared, and the user joined the room at any point after the event was sent,
 * allow." So what was said before the invitation stays readable to one who left:
 * https://spec.matrix.org/v1.16/client-server-api/#server-behaviour-5
 *
 * What a reader who was invited, joined and left sees of what was said between those moments. */
const SEEN = {
  world_readable: ["before", "invited", "joined", "after"],
  shared: ["before", "invited", "joined"],
  invited: ["invited", "joined"],
  joined: ["joined"],
};

describe("history", { concurrency: false }, () => {
  const on = stage("visibility");

  async function talk(visibility) {
    const [owner, guest, stranger] = await on.people("owner", "guest", "stranger");
    const content = { history_visibility: visibility };
    const room = await owner.createRoom({
      preset: "private_chat",
      initial_state: [{ type: "m.room.history_visibility", state_key: "", content }],
    });
    const said = { before: await owner.message(room, "before") };
    await owner.invite(room, guest.userId);
    said.invited = await owner.message(room, "invited");
    await guest.join(room);
    said.joined = await owner.message(room, "joined");
    await guest.post(v3`/rooms/${room}/leave`);
    said.after = await owner.message(room, "after");
    return { room, said, owner, guest, stranger };
  }

  /** The moments that a reader is shown, by asking for each event. */
  async function readable(reader, room, said) {
    const seen = [];
    for (const [moment, event] of Object.entries(said)) {
      const { status } = await reader.send("GET", v3`/rooms/${room}/event/${event}`);
      assert.ok([200, 403, 404].includes(status), `${status}`);
      if (status === 200) seen.push(moment);
    }
    return seen;
  }

  for (const [visibility, moments] of Object.entries(SEEN)) {
    it(`that is ${visibility} shows ${moments.join(", ")} to one who came and went`, async () => {
      const { room, said, guest, stranger } = await talk(visibility);
      assert.deepEqual(await readable(guest, room, said), moments);

      const everybody = visibility === "world_readable" ? moments : [];
      assert.deepEqual(await readable(stranger, room, said), everybody);

      const bodies = (await guest.history(room)).map((event) => event.content.body).filter(Boolean);
      const untilLeft = moments.filter((moment) => moment !== "after" || bodies.includes(moment));
      assert.deepEqual(bodies, untilLeft, "paging shows the same, and may end where the reader left");
      const pages = await stranger.send("GET", v3`/rooms/${room}/messages`, { query: { dir: "b" } });
      assert.equal(pages.status, visibility === "world_readable" ? 200 : 403);
    });
  }

  it("that closes hides what is said from then on, and what opens shows nothing older", async () => {
    const { room, owner, stranger } = await talk("world_readable");
    await owner.setState(room, "m.room.history_visibility", { history_visibility: "joined" });
    const closed = { secret: await owner.message(room, "secret") };
    assert.deepEqual(await readable(stranger, room, closed), []);
    await owner.setState(room, "m.room.history_visibility", { history_visibility: "world_readable" });
    const opened = { public: await owner.message(room, "public") };
    assert.deepEqual(await readable(stranger, room, { ...closed, ...opened }), ["public"]);
  });

  it("keeps its state from who may not see it", async () => {
    const { room, owner, guest, stranger } = await talk("shared");
    await owner.setState(room, "m.room.topic", { topic: "after the guest left" });
    assert.equal((await stranger.send("GET", v3`/rooms/${room}/state`)).status, 403);
    assert.equal((await stranger.send("GET", v3`/rooms/${room}/members`)).status, 403);
    assert.equal((await stranger.send("GET", v3`/rooms/${room}/joined_members`)).status, 403);
    const state = await guest.get(v3`/rooms/${room}/state`);
    const topic = state.find((event) => event.type === "m.room.topic");
    assert.equal(topic, undefined, "a left room's state ends at the leave");
  });
});
