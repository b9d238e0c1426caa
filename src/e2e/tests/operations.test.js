// What an operator does: check a configuration, make accounts, look at health, stop, back up, restore.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { after, before, describe, it } from "node:test";
import { Api, v3 } from "../lib/api.js";
import { Server, freePort } from "../lib/server.js";

/** SIGTERM answers the long-polls; a poll that is open for longer than this was not answered by it, in ms. */
const POLL_MS = 60_000;

describe("an operator", { concurrency: false }, () => {
  let server, metrics;

  before(async () => {
    metrics = `127.0.0.1:${await freePort()}`;
    server = await Server.create("operations", { metrics: { bind: metrics } });
    await server.start();
  });

  after(() => server?.finish());

  const config = () => ["--config", server.configFile];

  it("is told where a configuration is wrong", async () => {
    const good = await server.command(["check-config", ...config()]);
    assert.equal(good.code, 0, good.output);

    const file = path.join(server.dir, "wrong.toml");
    writeFileSync(file, 'server_name = "example.org"\n\n[registration]\nopne = true\n');
    const bad = await server.command(["check-config", "--config", file]);
    assert.notEqual(bad.code, 0);
    assert.match(bad.output, /line 4/);
    assert.match(bad.output, /registration\.opne.*open/s);
    assert.notEqual((await server.command(["serve", "--config", file])).code, 0);
  });

  it("is given a configuration to begin with that is right", async () => {
    const { code, output } = await server.command(["generate-config"]);
    assert.equal(code, 0);
    assert.match(output, /server_name/);
  });

  it("makes the first account, an administrator, while the server runs", async () => {
    const made = await server.command(["user", "create", ...config(), "--admin", "root"], {
      input: "a long password\n",
    });
    assert.equal(made.code, 0, made.output);
    const root = await Api.login(server.baseUrl, "root", { password: "a long password" });
    assert.equal((await root.whoami()).user_id, `@root:${server.name}`);

    const list = await server.command(["user", "list", ...config()]);
    assert.equal(list.code, 0, list.output);
    assert.match(list.output, /root/);

    const reset = await server.command(["user", "reset-password", ...config(), "root"], {
      input: "another password\n",
    });
    assert.equal(reset.code, 0, reset.output);
    await Api.login(server.baseUrl, "root", { password: "another password" });
  });

  it("sees health, readiness and metrics", async () => {
    const stranger = new Api(server.baseUrl);
    assert.equal((await stranger.send("GET", "/health")).status, 200);
    assert.equal((await stranger.send("GET", "/ready")).status, 200);
    assert.equal((await stranger.send("GET", "/metrics")).status, 404, "metrics have a listener of their own");
    const { status, body } = await new Api(`http://${metrics}`).send("GET", "/metrics");
    assert.equal(status, 200);
    assert.match(body, /^# TYPE /m);
  });

  it("is told by an error answer which request it was", async () => {
    const { body } = await new Api(server.baseUrl).send("GET", v3`/account/whoami`);
    assert.equal(typeof body.request_id, "string");
  });

  it("stops the server without cutting off who is waiting", async () => {
    const alice = await Api.register(server.baseUrl, "alice");
    const { next_batch: since } = await alice.sync();
    const { next_batch: settled } = await alice.sync({ since });
    const waiting = alice.send("GET", v3`/sync`, { query: { since: settled, timeout: POLL_MS } });
    await alice.whoami(); // the poll went out before this, on another connection
    const took = await server.stop();
    assert.ok(took < 10_000);
    const { status, body } = await waiting;
    assert.equal(status, 200, "the poll was answered");
    assert.ok(body.next_batch);
    await server.start();
    await alice.sync({ since: body.next_batch });
  });

  it("stops it by SIGINT as well", async () => {
    await server.stop("SIGINT");
    await server.start();
  });

  it("backs up a running server and restores what was acknowledged until then", async () => {
    const bob = await Api.register(server.baseUrl, "bob");
    const room = await bob.createRoom();
    const said = await bob.message(room, "kept");
    const folder = path.join(server.dir, "backup");
    const backup = await server.command(["backup", ...config(), folder]);
    assert.equal(backup.code, 0, backup.output);
    const lost = await bob.message(room, "after the backup");

    const other = await Server.create("operations-restored", { server_name: server.name });
    const restored = await other.command(["restore", "--config", other.configFile, folder]);
    assert.equal(restored.code, 0, restored.output);
    await other.start();
    const again = new Api(other.baseUrl, bob.session);
    assert.equal((await again.get(v3`/rooms/${room}/event/${said}`)).content.body, "kept");
    assert.equal((await again.send("GET", v3`/rooms/${room}/event/${lost}`)).status, 404);
    await other.finish();
  });
});
