// A client that believes only what sync tells it: it folds each answer into its picture of its rooms, which must then
// be the picture that the server draws when it is asked.

import { v3 } from "./api.js";

const key = (event) => `${event.type}|${event.state_key}`;

/** What the follower knows of a room that it is in. */
class Room {
  /** Event ids by type and state key. */
  state = new Map();

  /** Event ids as they were shown since it joined, gaps filled. */
  timeline = [];
}

export class Follower {
  #since = undefined;

  /** Rooms by id: joined ones with what is known of them, others with what they are. */
  joined = new Map();
  invited = new Set();
  knocked = new Set();

  /** `stateAfter`: asks for the state after the timeline rather than before it. `limit`: of each timeline. */
  constructor(api, { stateAfter, limit }) {
    Object.assign(this, { api, stateAfter });
    this.filter = { room: { timeline: { limit } } };
  }

  /** One sync without waiting. True if it told anything of rooms. */
  async step() {
    const query = { since: this.#since, filter: this.filter, use_state_after: this.stateAfter || undefined };
    const answer = await this.api.sync(query);
    const { join = {}, leave = {}, invite = {}, knock = {} } = answer.rooms ?? {};
    for (const [id, told] of Object.entries(join)) await this.#join(id, told);
    for (const id of Object.keys(leave)) this.#become(id, null);
    for (const id of Object.keys(invite)) this.#become(id, this.invited);
    for (const id of Object.keys(knock)) this.#become(id, this.knocked);
    this.#since = answer.next_batch;
    return [join, leave, invite, knock].some((section) => Object.keys(section).length > 0);
  }

  async drain() {
    while (await this.step());
  }

  #become(id, set) {
    this.joined.delete(id);
    this.invited.delete(id);
    this.knocked.delete(id);
    set?.add(id);
  }

  async #join(id, { state, state_after: after, timeline = { events: [] } }) {
    const isNews = !this.joined.has(id) || joinsAnew(this.api.userId, timeline);
    const room = isNews ? new Room() : this.joined.get(id);
    if (isNews) this.#become(id, null);
    this.joined.set(id, room);

    if (timeline.limited && !isNews) room.timeline.push(...(await this.#gap(id, timeline.prev_batch)));
    room.timeline.push(...timeline.events.map((event) => event.event_id));
    const changes = this.stateAfter
      ? (after?.events ?? [])
      : [...(state?.events ?? []), ...timeline.events.filter((event) => event.state_key !== undefined)];
    for (const event of changes) room.state.set(key(event), event.event_id);
  }

  async #gap(id, prevBatch) {
    const events = await this.api.history(id, { from: prevBatch, to: this.#since });
    return events.map((event) => event.event_id);
  }

  /** What the server says when it is asked: rooms joined, and each one's state and history. */
  async truth() {
    const rooms = new Map();
    for (const id of (await this.api.get(v3`/joined_rooms`)).joined_rooms) {
      const state = await this.api.get(v3`/rooms/${id}/state`);
      const history = await this.api.history(id);
      rooms.set(id, {
        state: new Map(state.map((event) => [key(event), event.event_id])),
        history: history.map((event) => event.event_id),
      });
    }
    return rooms;
  }
}

/** The reader left and came back within this answer: it holds the whole state anew. */
function joinsAnew(userId, { events, limited }) {
  const own = events.filter((event) => event.type === "m.room.member" && event.state_key === userId);
  const last = own.findLast((event) => event.content.membership === "join");
  return Boolean(limited && last && last.unsigned?.prev_content?.membership !== "join");
}
