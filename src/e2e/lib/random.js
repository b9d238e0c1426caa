// Choices that a seed repeats (the interleaving with the server it cannot).

/** A generator of numbers in [0, 1): mulberry32, small and good enough to choose what to do next. */
export function random(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

export class Dice {
  #next;

  constructor(seed) {
    this.#next = random(seed);
  }

  /** True with this probability. */
  chance(probability) {
    return this.#next() < probability;
  }

  /** An integer from `low` to `high`, both included. */
  between(low, high) {
    return low + Math.floor(this.#next() * (high - low + 1));
  }

  pick(list) {
    return list[this.between(0, list.length - 1)];
  }

  /** A key of `weights`, in proportion to its weight. */
  weighted(weights) {
    let point = this.#next() * Object.values(weights).reduce((sum, weight) => sum + weight, 0);
    for (const [key, weight] of Object.entries(weights)) {
      point -= weight;
      if (point < 0) return key;
    }
    throw new Error("weights must be positive");
  }
}
