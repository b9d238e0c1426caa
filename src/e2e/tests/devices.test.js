// Messages to devices and changes of devices, over a server that is killed in between.

import assert from "node:assert/strict";
import { after, before, describe, it } from "node:test";
import { Api, v3 } from "../lib/api.js";
import { Server } from "../lib/server.js";

/** More than one answer has. */
const MESSAGES = 130;

describe("devices", { concurrency: false }, () => {
  let server, alice, bob;

  before(async () => {
    server = await Server.start("devices");
    [alice, bob] = await Promise.all(["alice", "bob"].map((name) => Api.register(server.baseUrl, name)));
  });

  after(() => server?.finish());

  const send = (n) =>
    alice.put(v3`/sendToDevice/m.test/${n}`, { messages: { [bob.userId]: { [bob.session.device_id]: { n } } } });

  it("what was sent to a device waits for it, in order and once, whatever happens", async () => {
    for (let n = 0; n < MESSAGES; n++) await send(n);
    await server.kill();
    await server.start();
    // Clients that did not hear the answer send again.
    await send(MESSAGES - 1);
    const first = await bob.sync();
    const again = await bob.sync();
    assert.deepEqual(again.to_device, first.to_device, "nothing was confirmed yet");
    const second = await bob.sync({ since: first.next_batch });
    const got = [first, second].flatMap((answer) => answer.to_device.events.map((event) => event.content.n));
    assert.deepEqual(got, [...Array(MESSAGES).keys()]);
    assert.equal((await bob.sync({ since: second.next_batch })).to_device, undefined);
  });

  it("who shares a room hears of a new device, also later", async () => {
    const room = await alice.createRoom({ preset: "public_chat" });
    await bob.join(room);
    const { next_batch: since } = await bob.sync();
    await Api.login(server.baseUrl, "alice");
    const told = await bob.sync({ since });
    assert.deepEqual(told.device_lists.changed, [alice.userId]);
    await server.kill();
    await server.start();
    assert.deepEqual((await bob.sync({ since })).device_lists.changed, [alice.userId]);
    const changes = await bob.get(v3`/keys/changes`, { from: since, to: told.next_batch });
    assert.deepEqual(changes, { changed: [alice.userId], left: [] });
  });
});
