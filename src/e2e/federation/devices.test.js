// What end-to-end encryption needs of two servers: messages to devices, changes of devices, the keys of new ones.

import assert from "node:assert/strict";
import { describe, it } from "node:test";
import { Api, v3 } from "../lib/api.js";
import { AT_ONCE, CROSSING_MS, SIDES, crosses, joinVia, memberIs, pair } from "../lib/pair.js";

/** Keys as a device uploads them; nobody checks its signatures here. */
const deviceKeys = (api, key) => ({
  user_id: api.userId,
  device_id: api.session.device_id,
  algorithms: ["m.olm.v1.curve25519-aes-sha2", "m.megolm.v1.aes-sha2"],
  keys: { [`ed25519:${api.session.device_id}`]: key, [`curve25519:${api.session.device_id}`]: `${key}0` },
  signatures: { [api.userId]: { [`ed25519:${api.session.device_id}`]: "none" } },
});

const upload = (api, key) => api.post(v3`/keys/upload`, { device_keys: deviceKeys(api, key) });

/** The key of another user's device, as the server of `api` tells it. */
async function keyOf(api, device) {
  const answer = await api.post(v3`/keys/query`, { device_keys: { [device.userId]: [] } });
  const keys = answer.device_keys[device.userId]?.[device.session.device_id];
  return keys?.keys[`ed25519:${device.session.device_id}`];
}

const changed = (user) => (answer) => answer.device_lists?.changed?.includes(user);

describe("devices", { concurrency: AT_ONCE }, () => {
  const servers = pair("federation-devices");

  for (const side of SIDES) {
    it(`messages to devices go from ${side} to the other`, async () => {
      const [home, away] = await servers.people(side);
      const { next_batch: since } = await away.sync();
      const send = (transaction, device, n) =>
        home.put(v3`/sendToDevice/m.test/${transaction}`, { messages: { [away.userId]: { [device]: { n } } } });
      await send("1", away.session.device_id, 1);
      await send("1", away.session.device_id, 1);
      await send("2", "*", 2);
      const got = [];
      const all = (answer) => {
        got.push(...(answer.to_device?.events ?? []));
        return got.length >= 2;
      };
      await away.syncUntil(since, "both messages", all, { ms: CROSSING_MS });
      assert.deepEqual(
        got.map((event) => [event.sender, event.type, event.content.n]),
        [
          [home.userId, "m.test", 1],
          [home.userId, "m.test", 2],
        ],
      );
    });

    it(`changes of devices at ${side} are told at the other, which asks for their keys`, async () => {
      const [home, away] = await servers.people(side);
      const room = await home.createRoom({ preset: "public_chat" });
      await joinVia(away, room, servers[side].name);
      await memberIs(home, room, away.userId, "join");
      let { next_batch: since } = await away.sync();
      const change = async (what, act) => {
        await act();
        ({ since } = await away.syncUntil(since, what, changed(home.userId), { ms: CROSSING_MS }));
      };
      await change("keys of the first device", () => upload(home, "first"));
      await crosses(async () => assert.equal(await keyOf(away, home), "first"), "the first device's key");

      const name = home.userId.slice(1).split(":")[0];
      const second = await Api.login(servers[side].baseUrl, name);
      await change("a second device", () => upload(second, "second"));
      await crosses(async () => assert.equal(await keyOf(away, second), "second"), "the second device's key");

      await change("a device is gone", () => second.post(v3`/logout`));
      await crosses(async () => assert.equal(await keyOf(away, second), undefined), "the device is gone");
      assert.equal(await keyOf(away, home), "first");
    });
  }
});
