// A person with an ordinary client: matrix-js-sdk with its own sync loop.

import "./quiet.js";
import * as sdk from "matrix-js-sdk";
import { Api } from "./api.js";
import { until } from "./wait.js";

export const { ClientEvent, EventStatus, SyncState } = sdk;

/** Whatever a client learns, it learns by one of these. */
const NEWS = [sdk.ClientEvent.Sync, sdk.RoomEvent.LocalEchoUpdated];

/** Events a page when paging back. */
const PAGE = 50;

export class User {
  /** A new account with a started client. `name` is its local part. */
  static async register(server, name, startOptions) {
    const api = await Api.register(server.baseUrl, name, { initial_device_display_name: "e2e" });
    const user = new User(server, name, api);
    await user.start(startOptions);
    return user;
  }

  constructor(server, name, api) {
    this.name = name;
    this.api = api;
    this.client = sdk.createClient({
      baseUrl: server.baseUrl,
      accessToken: api.session.access_token,
      userId: api.session.user_id,
      deviceId: api.session.device_id,
    });
  }

  get id() {
    return this.api.userId;
  }

  /** Starts the sync loop and waits for the first answer. */
  async start(options = {}) {
    await this.client.startClient({
      initialSyncLimit: 20,
      lazyLoadMembers: true,
      pendingEventOrdering: sdk.PendingEventOrdering.Detached,
      ...options,
    });
    await this.until("its first sync is done", () => this.client.isInitialSyncComplete());
  }

  stop() {
    this.client.stopClient();
  }

  /** Waits until `probe` is truthy, looking after each sync; returns its value. */
  until(what, probe, ms) {
    return until(this.client, NEWS, `${this.name}: ${what}`, probe, ms);
  }

  room(id) {
    return this.client.getRoom(id);
  }

  /** Waits for this client to be `membership` in the room and to know the room. */
  untilIn(id, membership = "join") {
    return this.until(
      `is ${membership} in ${id}`,
      () => this.room(id)?.getMyMembership() === membership && this.room(id),
    );
  }

  /** Waits until another's membership, as this client sees it. */
  untilMember(id, userId, membership) {
    return this.until(`sees ${userId} ${membership}`, () => {
      const member = this.room(id)?.getMember(userId);
      return member?.membership === membership && member;
    });
  }

  /** Waits until the live timeline holds the event; returns it. */
  untilSees(id, eventId) {
    return this.until(`sees ${eventId}`, () => this.room(id)?.findEventById(eventId));
  }

  async say(id, body) {
    return (await this.client.sendTextMessage(id, body)).event_id;
  }

  /** The live timeline as far as it is loaded, oldest first. */
  timeline(id) {
    return this.room(id).getLiveTimeline().getEvents();
  }

  /** The bodies of the sender's messages in the loaded timeline, in its order. */
  bodies(id, sender) {
    return this.timeline(id)
      .filter((event) => event.getType() === "m.room.message" && event.getSender() === sender && event.status === null)
      .map((event) => event.getContent().body);
  }

  /** Pages back to the room's creation. */
  async loadAll(id) {
    const room = this.room(id);
    while (room.oldState.paginationToken !== null) await this.client.scrollback(room, PAGE);
  }

  stateContent(id, type, key = "") {
    return this.room(id)?.currentState.getStateEvents(type, key)?.getContent();
  }
}

export const ids = (events) => events.map((event) => event.getId());
