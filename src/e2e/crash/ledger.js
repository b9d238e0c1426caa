// What the server acknowledged, kept outside its process: the truth that it is measured by.

/** Something a writer asked for. `result` is the acknowledged answer; until then it may or may not have happened. */
class Entry {
  acknowledged = false;
  verified = false;
  result = undefined;

  constructor(fields) {
    Object.assign(this, fields);
  }
}

export class Ledger {
  /** Entries that no check has seen yet; the last of a writer may be unacknowledged. */
  open = [];

  /** Verified messages that a retry or a redaction may name; bounded, so that long runs stay small. */
  messages = [];
  static MESSAGES_MAX = 10_000;

  /** The newest value of each register (account data, profile, state): `{ acknowledged, pending }`. */
  registers = new Map();

  violations = [];
  acknowledgements = 0;

  begin(fields) {
    const entry = new Entry(fields);
    this.open.push(entry);
    return entry;
  }

  acknowledge(entry, result) {
    entry.acknowledged = true;
    entry.result = result;
    this.acknowledgements += 1;
  }

  /** A value is about to be written under `name`. */
  beginRegister(name, value) {
    const register = this.registers.get(name) ?? { acknowledged: undefined, pending: undefined };
    register.pending = value;
    this.registers.set(name, register);
  }

  acknowledgeRegister(name) {
    const register = this.registers.get(name);
    register.acknowledged = register.pending;
    register.pending = undefined;
    this.acknowledgements += 1;
  }

  /** Takes the acknowledged entries out and marks them as seen in the store. */
  settle() {
    const settled = this.open.filter((entry) => entry.acknowledged);
    this.open = this.open.filter((entry) => !entry.acknowledged);
    for (const entry of settled) entry.verified = true;
    this.messages.push(...settled.filter((entry) => entry.kind === "message"));
    if (this.messages.length > Ledger.MESSAGES_MAX) this.messages.splice(0, this.messages.length - Ledger.MESSAGES_MAX);
  }

  violation(text) {
    this.violations.push(text);
  }
}
