// The user directory: who is found by name, and by whom, also after a crash.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { v3 } from "../lib/api.js";
import { stage, verdict } from "../lib/stage.js";
import { eventually } from "../lib/wait.js";

describe("people", { concurrency: false }, () => {
  const on = stage("people");

  const search = (api, term, limit) => api.post(v3`/user_directory/search`, { search_term: term, limit });

  /** Waits until exactly these are found: `{ user: name }`. The directory follows what happens within a moment. */
  const finds = (api, term, expected) =>
    eventually(async () => {
      const { results } = await search(api, term);
      assert.deepEqual(Object.fromEntries(results.map((found) => [found.user_id, found.display_name])), expected);
    }, `${api.userId} finds ${JSON.stringify(expected)} by ${term}`);

  const rename = (api, name) => api.put(v3`/profile/${api.userId}/displayname`, { displayname: name });

  it("are found by those who share a room with them, and after a crash", async () => {
    const [alice, bob, carol] = [await on.person("alice"), await on.person("bob"), await on.person("carol")];
    await rename(bob, "Śnieżka Böhm");
    const room = await alice.createRoom({ preset: "private_chat", invite: [bob.userId] });
    await bob.join(room);
    await finds(alice, "bohm snie", { [bob.userId]: "Śnieżka Böhm" });
    await finds(carol, "bohm", {});

    await rename(bob, "Renamed");
    await on.server.restart();
    await finds(alice, "renamed", { [bob.userId]: "Renamed" });
    await finds(alice, "bohm", {});

    await alice.setState(room, "m.room.join_rules", { join_rule: "public" });
    await finds(carol, "renamed", { [bob.userId]: "Renamed" });
    await bob.post(v3`/rooms/${room}/leave`);
    await on.server.restart();
    await finds(carol, "renamed", {});
    await finds(alice, "renamed", {});
  });

  it("are asked for with sense", async () => {
    const asker = await on.person("asker");
    const path = v3`/user_directory/search`;
    assert.deepEqual(verdict(await asker.send("POST", path, { body: {} })), [400, "M_BAD_JSON"]);
    const long = { search_term: "x".repeat(1_025) };
    assert.deepEqual(verdict(await asker.send("POST", path, { body: long })), [400, "M_INVALID_PARAM"]);
    for (const term of ["", " ", "@", ":", "@:", "\u0000", "\uffff", "%", "💥".repeat(200)]) {
      assert.deepEqual(await search(asker, term, 1), { results: [], limited: false }, JSON.stringify(term));
    }
    const stranger = await on.stranger().send("POST", path, { body: { search_term: "x" } });
    assert.deepEqual(verdict(stranger), [401, "M_MISSING_TOKEN"]);
  });
});
