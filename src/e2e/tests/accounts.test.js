// Accounts and sessions: how they begin, what they need to be changed, and how they end.

import assert from "node:assert/strict";
import { createHmac } from "node:crypto";
import { describe, it } from "node:test";
import { Api, passwordOf, v3 } from "../lib/api.js";
import { SHARED_SECRET } from "../lib/server.js";
import { stage, verdict } from "../lib/stage.js";
import { within } from "../lib/wait.js";

describe("accounts", { concurrency: false }, () => {
  const on = stage("accounts");

  /** Repeats a request that answered 401 with the account's password in the session it was given. */
  async function withPassword(api, method, path, body, username) {
    const asked = await api.send(method, path, { body });
    assert.equal(asked.status, 401);
    assert.ok(asked.body.flows.some(({ stages }) => stages.join() === "m.login.password"));
    const auth = {
      type: "m.login.password",
      session: asked.body.session,
      identifier: { type: "m.id.user", user: username },
      password: passwordOf(username),
    };
    return api.send(method, path, { body: { ...body, auth } });
  }

  it("are offered, made once, and known by their token", async () => {
    const { baseUrl } = on.server;
    const name = on.username("carol");
    const available = () => on.stranger().send("GET", v3`/register/available`, { query: { username: name } });
    assert.equal((await available()).body.available, true);

    const carol = await Api.register(baseUrl, name, { device_id: "PHONE" });
    assert.equal(carol.userId, `@${name}:${on.server.name}`);
    assert.deepEqual(verdict(await available()), [400, "M_USER_IN_USE"]);
    await assert.rejects(Api.register(baseUrl, name), { errcode: "M_USER_IN_USE" });
    await assert.rejects(Api.register(baseUrl, "not a name!"), { errcode: "M_INVALID_USERNAME" });

    const who = await carol.whoami();
    assert.deepEqual([who.user_id, who.device_id, who.is_guest ?? false], [carol.userId, "PHONE", false]);
  });

  it("are made by scripts that know the shared secret", async () => {
    const path = "/_synapse/admin/v1/register";
    const stranger = on.stranger();
    const username = on.username("script");
    const register = async (secret) => {
      const { nonce } = await stranger.get(path);
      const password = passwordOf(username);
      const mac = createHmac("sha1", secret).update([nonce, username, password, "notadmin"].join("\0")).digest("hex");
      return stranger.send("POST", path, { body: { nonce, username, password, admin: false, mac } });
    };
    assert.equal((await register("a wrong guess")).status, 403);
    assert.equal((await register(SHARED_SECRET)).status, 200);
    const api = await Api.login(on.server.baseUrl, username);
    assert.equal((await api.whoami()).user_id, `@${username}:${on.server.name}`);
  });

  it("refuse a wrong password as they refuse an unknown name", async () => {
    const { baseUrl } = on.server;
    const name = on.username("dave");
    await Api.register(baseUrl, name);
    const answers = [];
    for (const user of [name, on.username("nobody")]) {
      const body = { type: "m.login.password", identifier: { type: "m.id.user", user }, password: "wrong" };
      answers.push(await on.stranger().send("POST", v3`/login`, { body }));
    }
    assert.deepEqual(answers.map(verdict), [
      [403, "M_FORBIDDEN"],
      [403, "M_FORBIDDEN"],
    ]);
    assert.deepEqual(answers[0].body.error, answers[1].body.error);
  });

  it("end a session on logout, and every session on logout/all", async () => {
    const { baseUrl } = on.server;
    const name = on.username("erin");
    const first = await Api.register(baseUrl, name);
    const second = await Api.login(baseUrl, name);
    const third = await Api.login(baseUrl, name);

    await second.post(v3`/logout`);
    assert.deepEqual(verdict(await second.send("GET", v3`/account/whoami`)), [401, "M_UNKNOWN_TOKEN"]);
    await first.whoami();
    await first.post(v3`/logout/all`);
    for (const api of [first, third]) {
      assert.deepEqual(verdict(await api.send("GET", v3`/account/whoami`)), [401, "M_UNKNOWN_TOKEN"]);
    }
  });

  it("answer a waiting sync when its session ends", async () => {
    const { baseUrl } = on.server;
    const name = on.username("frank");
    const phone = await Api.register(baseUrl, name);
    const { next_batch: since } = await phone.sync();
    const waiting = phone.send("GET", v3`/sync`, { query: { since, timeout: 30_000 } });
    await phone.post(v3`/logout`);
    const end = await within(waiting, "the sync of a session that ended is answered", 10_000);
    assert.ok(end.status === 401 || (end.status === 200 && end.body.next_batch), "neither hangs nor fails");
    assert.deepEqual(verdict(await phone.send("GET", v3`/sync`, { query: { since } })), [401, "M_UNKNOWN_TOKEN"]);
  });

  it("renew a session by its refresh token, each once", async () => {
    const { baseUrl } = on.server;
    const name = on.username("grace");
    await Api.register(baseUrl, name);
    const api = await Api.login(baseUrl, name, { refresh_token: true });
    assert.ok(api.session.refresh_token && api.session.expires_in_ms > 0);

    const refresh = (token) => on.stranger().send("POST", v3`/refresh`, { body: { refresh_token: token } });
    const renewed = await refresh(api.session.refresh_token);
    assert.equal(renewed.status, 200);
    const next = new Api(baseUrl, { ...api.session, ...renewed.body });
    assert.equal((await next.whoami()).device_id, api.session.device_id);

    assert.equal((await refresh(api.session.refresh_token)).status, 401, "a used refresh token is worth nothing");
    assert.equal((await refresh("made up")).status, 401);
  });

  it("change the password only with the password, and log the other devices out", async () => {
    const { baseUrl } = on.server;
    const name = on.username("heidi");
    const phone = await Api.register(baseUrl, name);
    const laptop = await Api.login(baseUrl, name);
    const changed = await withPassword(
      phone,
      "POST",
      v3`/account/password`,
      { new_password: "a new one, longer" },
      name,
    );
    assert.equal(changed.status, 200);

    await phone.whoami();
    assert.equal((await laptop.send("GET", v3`/account/whoami`)).status, 401);
    await assert.rejects(Api.login(baseUrl, name), { errcode: "M_FORBIDDEN" });
    await Api.login(baseUrl, name, { password: "a new one, longer" });
  });

  it("do not take another user's interactive session for their own", async () => {
    const { baseUrl } = on.server;
    const [victim, thief] = [on.username("victim"), on.username("thief")];
    const phone = await Api.register(baseUrl, victim);
    const stranger = await Api.register(baseUrl, thief);
    const { session } = (
      await phone.send("POST", v3`/account/password`, { body: { new_password: "longer than eight" } })
    ).body;
    const auth = {
      type: "m.login.password",
      session,
      identifier: { type: "m.id.user", user: thief },
      password: passwordOf(thief),
    };
    const stolen = await phone.send("POST", v3`/account/password`, {
      body: { new_password: "longer than eight", auth },
    });
    assert.ok([401, 403].includes(stolen.status), `${stolen.status}`);
    await Api.login(baseUrl, victim);
    await stranger.whoami();
  });

  it("list, name and delete their devices", async () => {
    const { baseUrl } = on.server;
    const name = on.username("ivan");
    const phone = await Api.register(baseUrl, name, { device_id: "PHONE" });
    const laptop = await Api.login(baseUrl, name, { device_id: "LAPTOP" });
    await phone.put(v3`/devices/LAPTOP`, { display_name: "On the desk" });
    const { devices } = await phone.get(v3`/devices`);
    assert.deepEqual(devices.map((device) => device.device_id).sort(), ["LAPTOP", "PHONE"]);
    assert.equal(devices.find((device) => device.device_id === "LAPTOP").display_name, "On the desk");

    const deleted = await withPassword(phone, "DELETE", v3`/devices/LAPTOP`, {}, name);
    assert.equal(deleted.status, 200);
    assert.equal((await laptop.send("GET", v3`/account/whoami`)).status, 401);
    assert.deepEqual(verdict(await phone.send("GET", v3`/devices/LAPTOP`)), [404, "M_NOT_FOUND"]);
  });

  it("leave their rooms and their name behind when they are deactivated", async () => {
    const { baseUrl } = on.server;
    const name = on.username("judy");
    const [judy, owner] = [await Api.register(baseUrl, name), await on.person("owner")];
    const room = await on.room([owner, judy]);
    const { next_batch: since } = await owner.sync();

    assert.equal((await withPassword(judy, "POST", v3`/account/deactivate`, { erase: false }, name)).status, 200);
    await owner.syncUntil(since, "judy leaves", (answer) =>
      answer.rooms?.join?.[room]?.timeline.events.some(
        (event) => event.state_key === judy.userId && event.content.membership === "leave",
      ),
    );
    assert.equal((await judy.send("GET", v3`/account/whoami`)).status, 401);
    assert.equal(
      (
        await on.stranger().send("POST", v3`/login`, {
          body: { type: "m.login.password", identifier: { type: "m.id.user", user: name }, password: passwordOf(name) },
        })
      ).status,
      403,
    );
    await assert.rejects(Api.register(baseUrl, name), { errcode: "M_USER_IN_USE" });
  });

  it("show a profile to others, custom fields too", async () => {
    const [kim, leo] = await on.people("kim", "leo");
    await kim.put(v3`/profile/${kim.userId}/displayname`, { displayname: "Kim" });
    await kim.put(v3`/profile/${kim.userId}/org.example.pronouns`, { "org.example.pronouns": ["they"] });
    assert.deepEqual(await leo.get(v3`/profile/${kim.userId}`), {
      displayname: "Kim",
      "org.example.pronouns": ["they"],
    });
    const foreign = await leo.send("PUT", v3`/profile/${kim.userId}/displayname`, { body: { displayname: "not Kim" } });
    assert.deepEqual(verdict(foreign), [403, "M_FORBIDDEN"]);
  });
});

describe("guests", { concurrency: false }, () => {
  const on = stage("guests");

  it("enter where guests are welcome, and nowhere else", async () => {
    const owner = await on.person("owner");
    const guest = await Api.guest(on.server.baseUrl);
    const welcome = { type: "m.room.guest_access", state_key: "", content: { guest_access: "can_join" } };
    const open = await on.room([owner], { initial_state: [welcome] });
    const closed = await on.room([owner], {
      initial_state: [{ ...welcome, content: { guest_access: "forbidden" } }],
    });
    assert.equal((await guest.whoami()).is_guest, true);
    await guest.join(open);
    await guest.message(open, "hello from a guest");
    assert.equal((await guest.send("POST", v3`/join/${closed}`, { body: {} })).status, 403);
    assert.equal((await guest.send("POST", v3`/createRoom`, { body: {} })).status, 403);
  });

  it("are shown out when guests are welcome no more", async () => {
    const owner = await on.person("owner");
    const guest = await Api.guest(on.server.baseUrl);
    const content = { guest_access: "can_join" };
    const room = await on.room([owner, guest], {
      initial_state: [{ type: "m.room.guest_access", state_key: "", content }],
    });
    const { next_batch: since } = await guest.sync();
    await owner.setState(room, "m.room.guest_access", { guest_access: "forbidden" });
    await guest.syncUntil(since, "the guest is out", (answer) => answer.rooms?.leave?.[room]);
  });
});
