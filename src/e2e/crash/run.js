// The crash ledger: writers outside the server process, `kill -9` at random moments, restart, compare.
//
//   HEARTH_CRASH_ROUNDS  rounds; 20 without it
//   HEARTH_CRASH_SEED    repeats a run's choices; random without it, and printed
//
// It does not cut the power: what the operating system has taken survives a killed process, synced or not.

import { randomInt } from "node:crypto";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { Api } from "../lib/api.js";
import { Server } from "../lib/server.js";
import { within } from "../lib/wait.js";
import { Checker } from "./check.js";
import { Gate } from "./gate.js";
import { Ledger } from "./ledger.js";
import { Dice } from "../lib/random.js";
import { Reader } from "./reader.js";
import { Writer } from "./writer.js";

const ROUNDS = Number(process.env.HEARTH_CRASH_ROUNDS ?? 20);
const SEED = Number(process.env.HEARTH_CRASH_SEED ?? randomInt(2 ** 31));

const WRITERS = 4;
const ROOMS = 3;

/** A round's writing time, in ms: from hardly begun to well under way. */
const LIFE_MS = [20, 1_200];

/** Part of the rounds in which the restart is killed too, and how long that start lives, in ms. */
const KILLED_START = 0.25;
const START_LIFE_MS = [0, 250];

/** Rounds between two checks of everything, and between two runs of fsck on the store as the kill left it. */
const FULL_EVERY = 25;
const FSCK_EVERY = 5;

/** All writers stand still this long after a kill, in ms, or something hangs. */
const GATHER_MS = 90_000;

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function cast(server, dice) {
  const owner = await Api.register(server.baseUrl, "owner");
  const readerApi = await Api.register(server.baseUrl, "reader");
  const rooms = [];
  for (let n = 0; n < ROOMS; n++) rooms.push(await owner.createRoom({ preset: "public_chat", name: `room ${n}` }));
  for (const room of rooms) await readerApi.join(room);

  const ledger = new Ledger();
  const gate = new Gate();
  const writers = [];
  for (let n = 0; n < WRITERS; n++) {
    const name = `writer${n}`;
    const api = await Api.register(server.baseUrl, name);
    for (const room of rooms) await api.join(room);
    for (const room of rooms)
      await owner.setState(room, "m.room.power_levels", await withState(owner, room, api.userId));
    writers.push(new Writer({ name, api, rooms, ledger, gate, dice: new Dice(dice.between(0, 2 ** 31)) }));
  }
  const reader = new Reader({ api: readerApi, rooms, ledger, gate });
  const checker = new Checker({ api: owner, rooms, writers, ledger });
  return { ledger, gate, writers, reader, checker };
}

/** The room's power levels with the user allowed to set state. */
async function withState(owner, room, user) {
  const levels = await owner.state(room, "m.room.power_levels");
  return { ...levels, users: { ...levels.users, [user]: 50 } };
}

/** Lets the writers write, kills the server under them, and starts it again. */
async function crash(server, dice, { gate, writers }, round) {
  const lifeMs = dice.between(...LIFE_MS);
  gate.open();
  await Promise.race([pause(lifeMs), server.ended()]);
  gate.close();
  await server.kill();
  let startsKilled = 0;
  while (dice.chance(KILLED_START)) {
    server.spawn();
    await pause(dice.between(...START_LIFE_MS));
    await server.kill();
    startsKilled += 1;
  }
  await within(gate.gathered(writers.length + 1), "writers and reader notice that the server is gone", GATHER_MS);
  if (round % FSCK_EVERY === 0) await server.fsck();
  const begin = performance.now();
  await server.start();
  return { lifeMs, startsKilled, startMs: Math.round(performance.now() - begin) };
}

async function rounds(server, dice, scene) {
  const { ledger, reader, checker } = scene;
  for (let round = 1; round <= ROUNDS; round++) {
    const before = ledger.acknowledgements;
    const { lifeMs, startsKilled, startMs } = await crash(server, dice, scene, round);
    await reader.drain();
    await checker.step();
    checker.reader(reader);
    if (round % FULL_EVERY === 0 || round === ROUNDS) await checker.everything(reader);
    server.assertNoPanic();
    const verdict = ledger.violations.length === 0 ? "ok" : "VIOLATED";
    console.log(
      `round ${round}/${ROUNDS}: ${ledger.acknowledgements - before} acknowledged in ${lifeMs} ms, ` +
        `${startsKilled} starts killed, up in ${startMs} ms, ${checker.events()} events: ${verdict}`,
    );
    if (ledger.violations.length > 0) return;
  }
}

async function main() {
  console.log(`crash ledger: ${ROUNDS} rounds, seed ${SEED}`);
  const dice = new Dice(SEED);
  const server = await Server.start("crash");
  const scene = await cast(server, dice);
  const { ledger, gate, writers, reader } = scene;
  const running = [...writers, reader].map((party) => party.run());
  await rounds(server, dice, scene);

  for (const party of [...writers, reader]) party.stopped = true;
  gate.open();
  await within(Promise.all(running), "writers and reader end", GATHER_MS);
  if (ledger.violations.length === 0) {
    await server.finish();
    console.log(`crash ledger: ${ROUNDS} rounds, ${ledger.acknowledgements} acknowledgements, all kept (seed ${SEED})`);
    return 0;
  }
  await server.kill();
  const file = path.join(server.dir, "violations.json");
  writeFileSync(file, JSON.stringify({ seed: SEED, violations: ledger.violations }, null, 1));
  for (const text of ledger.violations.slice(0, 20)) console.error(`violation: ${text}`);
  console.error(
    `crash ledger: ${ledger.violations.length} violations, seed ${SEED}; all in ${file}, data in ${server.dir}`,
  );
  return 1;
}

process.exit(await main());
