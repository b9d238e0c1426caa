// Waiting without sleeping: for a promise, for something that an emitter announces, or for the world outside
// to answer, each with a deadline that names what was missing.

/** How long anything may take before the test gives up, in ms: ten times what a loaded two-core machine needs. */
export const DEADLINE_MS = Number(process.env.HEARTH_E2E_DEADLINE_MS ?? 30_000);

/** Pause between two looks at something that cannot announce itself (a port, a process), in ms, unless told otherwise. */
const RETRY_MS = 10;

/** The promise, or a rejection that says `what` did not happen within `ms`. */
export function within(promise, what, ms = DEADLINE_MS) {
  let timer;
  const expired = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${ms} ms: ${what}`)), ms);
  });
  return Promise.race([promise, expired]).finally(() => clearTimeout(timer));
}

/**
 * The first truthy value of `probe`, asked now and again after each of the emitter's `events`.
 * `what` says in words what is waited for.
 */
export function until(emitter, events, what, probe, ms = DEADLINE_MS) {
  let look;
  const seen = new Promise((resolve, reject) => {
    look = () => {
      try {
        const value = probe();
        if (value) resolve(value);
      } catch (error) {
        reject(error);
      }
    };
    for (const event of events) emitter.on(event, look);
    look();
  });
  return within(seen, what, ms).finally(() => {
    for (const event of events) emitter.off(event, look);
  });
}

/**
 * The first value that `attempt` returns without throwing; only for what lies outside this process.
 * `hopeless()` may end it before the deadline. Pauses grow from `everyMs` to `seldomMs`.
 */
export async function eventually(
  attempt,
  what,
  { ms = DEADLINE_MS, everyMs = RETRY_MS, seldomMs = everyMs, hopeless = () => false } = {},
) {
  const end = performance.now() + ms;
  let pauseMs = everyMs;
  for (;;) {
    try {
      return await attempt();
    } catch (error) {
      if (performance.now() > end || hopeless()) throw new Error(`not within ${ms} ms: ${what}`, { cause: error });
    }
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
    pauseMs = Math.min(pauseMs * 1.5, seldomMs);
  }
}
