// hearth and a stock Synapse on loopback, each known to the other by a relay's port, over TLS with a CA of the tests' own.

import { after, before } from "node:test";
import assert from "node:assert/strict";
import path from "node:path";
import { isDeepStrictEqual } from "node:util";
import { Api, v3 } from "./api.js";
import { Authority } from "./authority.js";
import { Relay } from "./relay.js";
import { Server, WORK_DIR, freePort } from "./server.js";
import { Synapse } from "./synapse.js";
import { eventually } from "./wait.js";

/** What has to cross from one server to the other may take this long, in ms: on a machine that does much else, too. */
export const CROSSING_MS = 120_000;

/** After so long one speaks again, in ms. */
const HEARING_MS = 5_000;

/** How often a server is asked whether something has crossed, at first and at last, in ms: asking keeps it from its work. */
const [LOOK_EVERY_MS, LOOK_SELDOM_MS] = [50, 1_000];

/** Waits for what crosses from one server to the other. */
export const crosses = (attempt, what, ms = CROSSING_MS) =>
  eventually(attempt, what, { ms, everyMs: LOOK_EVERY_MS, seldomMs: LOOK_SELDOM_MS });

/** The hearth that takes part: clients in clear on one port, other servers by TLS on another. */
async function createHearth(folder, { authority, relay, config = {} }) {
  const [tlsPort, identity] = [await freePort(), authority.issue(folder)];
  relay.target = tlsPort;
  const files = { tls_certificate: identity.certificate, tls_private_key: identity.key };
  return Server.create(folder, (port) => ({
    server_name: `localhost:${relay.port}`,
    listeners: [
      { bind: `127.0.0.1:${port}`, serve: ["client"] },
      { bind: `127.0.0.1:${tlsPort}`, serve: ["federation"], ...files },
    ],
    outbound: { extra_ca_files: [authority.certificate], denied_ip_ranges: [] },
    federation: { trusted_key_servers: [] },
    room_directory: { public_over_federation: true },
    ...config,
  }));
}

class Pair {
  hearth = null;
  synapse = null;
  relays = {};
  #authority = null;
  #others = [];
  #people = 0;

  async open(name) {
    const authority = new Authority(path.join(WORK_DIR, `${name}-ca`));
    this.#authority = authority;
    this.relays = { hearth: await Relay.open(), synapse: await Relay.open() };
    this.hearth = await createHearth(`${name}-hearth`, { authority, relay: this.relays.hearth });
    this.synapse = await Synapse.create(`${name}-synapse`, { authority, relay: this.relays.synapse });
    await Promise.all([this.hearth.start(), this.synapse.start()]);
  }

  /** A further hearth, which both reach. */
  async another(folder) {
    const relay = await Relay.open();
    this.relays[folder] = relay;
    const server = await createHearth(folder, { authority: this.#authority, relay });
    this.#others.push(server);
    await server.start();
    return server;
  }

  async close() {
    await this.synapse?.stop();
    for (const server of [this.hearth, ...this.#others]) await server?.finish();
    await Promise.all(Object.values(this.relays).map((relay) => relay.close()));
  }

  /** Both ways. */
  cut() {
    for (const relay of Object.values(this.relays)) relay.cut();
  }

  mend() {
    for (const relay of Object.values(this.relays)) relay.mend();
  }

  /** A new account on the server called `side`. */
  person(side, name) {
    return Api.register(this[side].baseUrl, `${name}${++this.#people}`);
  }

  /** One on each: `[home, away]` for the side where rooms are made. */
  async people(side) {
    return Promise.all([this.person(side, "home"), this.person(other(side), "away")]);
  }
}

/** Tests of a file at once: while one server works, the other one has another room to work at. */
export const AT_ONCE = 3;

export const SIDES = ["hearth", "synapse"];

export const other = (side) => (side === "hearth" ? "synapse" : "hearth");

/** Starts both before the tests of this suite; stops them and checks hearth's store after. */
export function pair(name) {
  const it = new Pair();
  before(() => it.open(name), { timeout: 180_000 });
  after(() => it.close());
  return it;
}

/** Joins a room by the help of a server. */
export async function joinVia(api, room, server) {
  return (await api.ok("POST", v3`/join/${room}`, { query: { server_name: server, via: server }, body: {} })).room_id;
}

/** What servers must agree on of an event. */
const essence = ({ event_id, type, state_key, sender, origin_server_ts, content }) => ({
  event_id,
  type,
  state_key,
  sender,
  origin_server_ts,
  content,
});

/** The state as a member sees the room: `{ "type|state_key": event }`, in order. */
export async function stateOf(api, room) {
  const state = await api.get(v3`/rooms/${room}/state`);
  const entries = state.map((event) => [`${event.type}|${event.state_key}`, essence(event)]);
  return Object.fromEntries(entries.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** Waits until both members' servers have the same state, event for event; returns it. */
export function sameState(room, one, two) {
  const compare = async () => {
    const [ours, theirs] = await Promise.all([stateOf(one, room), stateOf(two, room)]);
    const differ = (key) => !isDeepStrictEqual(ours[key], theirs[key]);
    const different = Object.keys({ ...ours, ...theirs }).filter(differ);
    const both = () => JSON.stringify(different.map((key) => [ours[key], theirs[key]]));
    if (different.length > 0) throw new Error(`${different.length} differ: ${both()}`);
    return ours;
  };
  return crosses(compare, `${one.userId} and ${two.userId} see the same state of ${room}`);
}

/** Waits until a member's server has the event; returns it. */
export function eventAt(api, room, eventId, ms = CROSSING_MS) {
  return crosses(() => api.get(v3`/rooms/${room}/event/${eventId}`), `${api.userId} gets ${eventId}`, ms);
}

/**
 * Speaks until the other member hears it: a server that did not reach another one tries again when it has something to
 * say. Returns the event that was heard.
 */
export function speakUntilHeard(speaker, hearer, room) {
  const said = [];
  const heard = () => Promise.any(said.slice(-2).map((id) => hearer.get(v3`/rooms/${room}/event/${id}`)));
  const attempt = async () => {
    said.push(await speaker.message(room, "do you hear me?"));
    return crosses(heard, `${hearer.userId} gets ${said.at(-1)}`, HEARING_MS);
  };
  return crosses(attempt, `${hearer.userId} hears ${speaker.userId}`);
}

/** Waits until the room is among the user's rooms with this membership, as sync tells it. */
export async function until(api, room, membership) {
  const probe = (answer) => answer.rooms?.[membership]?.[room];
  return (await api.syncUntil(undefined, `${api.userId} has ${membership} of ${room}`, probe, { ms: CROSSING_MS }))
    .value;
}

/** Waits until a membership stands in the room as this member sees it. */
export function memberIs(api, room, user, membership) {
  const look = async () => {
    const { membership: found } = await api.state(room, "m.room.member", user);
    assert.equal(found, membership);
  };
  return crosses(look, `${api.userId} sees ${user} with ${membership}`);
}
