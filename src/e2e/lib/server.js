// The real binary in a folder of its own on loopback: started, killed, restarted, stopped.

import { spawn } from "node:child_process";
import { createServer } from "node:net";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { toToml } from "./toml.js";
import { eventually, within } from "./wait.js";

const REPOSITORY = fileURLToPath(new URL("../../..", import.meta.url));

/** The server under test. */
export const BINARY = path.resolve(process.env.HEARTH_BIN ?? path.join(REPOSITORY, "target/debug/hearth"));

/** Where servers keep their data and logs; kept after a run, for whoever reads a failure. */
export const WORK_DIR = path.resolve(process.env.HEARTH_E2E_DIR ?? path.join(REPOSITORY, "target/e2e"));

/** The shared secret of the registration endpoint that scripts use. */
export const SHARED_SECRET = "e2e-shared-secret";

/** The server promises to be gone this long after SIGTERM, in ms. */
const DRAIN_MS = 10_000;

/** A command of the binary (`fsck`, `check-config`) may take this long, in ms. */
const COMMAND_MS = 120_000;

/** Lines of the log that an error message shows. */
const LOG_TAIL_LINES = 25;

/** Ports that this process has given out: their servers may not have taken them yet. */
const givenPorts = new Set();

/** A port that was free a moment ago, and is nobody else's in this process. */
export async function freePort() {
  const probe = createServer();
  await new Promise((resolve, reject) => probe.once("error", reject).listen(0, "127.0.0.1", resolve));
  const { port } = probe.address();
  await new Promise((resolve) => probe.close(resolve));
  if (givenPorts.has(port)) return freePort();
  givenPorts.add(port);
  return port;
}

/** This process's environment without what the server would read as its configuration. */
const ENVIRONMENT = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith("HEARTH_")));

/** What the tests need: everything open, cheap passwords, no rate limits. */
function defaultConfig(dir, port) {
  return {
    server_name: `localhost:${port}`,
    public_base_url: `http://127.0.0.1:${port}`,
    data_dir: path.join(dir, "data"),
    listeners: [{ bind: `127.0.0.1:${port}`, serve: ["client"] }],
    registration: { open: true, guests: true, shared_secret: SHARED_SECRET },
    passwords: { argon2_memory_kib: 64, argon2_iterations: 1 },
    room_directory: { public_without_auth: true },
    rate_limits: { enabled: false },
  };
}

export class Server {
  #child = null;
  #exit = null;

  /**
   * A server that is configured but not started. `name` is its folder's; `config` overrides top-level keys, and may be
   * a function of the port.
   */
  static async create(name, config = {}) {
    const dir = path.join(WORK_DIR, name);
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(path.join(dir, "data"), { recursive: true });
    return new Server(dir, await freePort(), config);
  }

  /** A server that answers. */
  static async start(name, config = {}) {
    const server = await Server.create(name, config);
    await server.start();
    return server;
  }

  constructor(dir, port, config) {
    this.dir = dir;
    this.port = port;
    this.baseUrl = `http://127.0.0.1:${port}`;
    this.config = { ...defaultConfig(dir, port), ...(typeof config === "function" ? config(port) : config) };
    this.configFile = path.join(dir, "hearth.toml");
    this.logFile = path.join(dir, "server.log");
    writeFileSync(this.configFile, `${toToml(this.config)}\n`);
  }

  get name() {
    return this.config.server_name;
  }

  get pid() {
    return this.#child?.pid;
  }

  /** Runs the process; it does not yet answer. */
  spawn() {
    if (this.#child) throw new Error("the server runs already");
    const log = openSync(this.logFile, "a");
    const child = spawn(BINARY, ["--config", this.configFile], { stdio: ["ignore", log, log], env: ENVIRONMENT });
    closeSync(log);
    this.#child = child;
    this.#exit = new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("exit", (code, signal) => resolve({ code, signal }));
    });
    this.#exit.catch(() => {});
  }

  /** Waits until `/versions` answers; fails at once if the process ends before it. */
  async ready() {
    let end = null;
    this.#exit.then(
      (result) => (end = result),
      (error) => (end = { code: error.message }),
    );
    const ask = async () => {
      const response = await fetch(`${this.baseUrl}/_matrix/client/versions`);
      await response.arrayBuffer();
      if (!response.ok) throw new Error(`/versions answered ${response.status}`);
    };
    try {
      await eventually(ask, `${this.baseUrl} answers`, { hopeless: () => end !== null });
    } catch (error) {
      const what = end ? `the server ended (${end.signal ?? end.code}) before it answered` : error.message;
      throw new Error(`${what}:\n${this.logTail()}`, { cause: error });
    }
  }

  async start() {
    this.spawn();
    await this.ready();
  }

  /** The plug is pulled. */
  async kill() {
    await this.#end("SIGKILL");
  }

  /** Resolves when the process ends by itself: something that no test wants. */
  async ended() {
    await this.#exit;
  }

  async restart() {
    await this.kill();
    await this.start();
  }

  /** SIGTERM; fails unless the server drains in time, says 0, and never panicked. Returns how long it took, in ms. */
  async stop(signal = "SIGTERM") {
    if (!this.#child) return 0;
    const begin = performance.now();
    const { code } = await this.#end(signal);
    if (code !== 0) throw new Error(`the server ended with ${code} after ${signal}:\n${this.logTail()}`);
    this.assertNoPanic();
    return performance.now() - begin;
  }

  async #end(signal) {
    const child = this.#child;
    child.kill(signal);
    try {
      const result = await within(this.#exit, `the server ends after ${signal}`, DRAIN_MS);
      this.#child = null;
      return result;
    } catch (error) {
      child.kill("SIGKILL");
      this.#child = null;
      throw error;
    }
  }

  /** Runs a command of the binary to its end: `{ code, output }`. `input` goes to its standard input. */
  async command(args, { input = "" } = {}) {
    const child = spawn(BINARY, args, { stdio: "pipe", timeout: COMMAND_MS, env: ENVIRONMENT });
    let output = "";
    child.stdout.setEncoding("utf8").on("data", (text) => (output += text));
    child.stderr.setEncoding("utf8").on("data", (text) => (output += text));
    child.stdin.on("error", () => {}); // a command that reads nothing closes it first
    child.stdin.end(input);
    const code = await new Promise((resolve, reject) => {
      child.once("error", reject);
      child.once("close", (status, signal) => resolve(status ?? signal));
    });
    return { code, output };
  }

  /** The store's own invariants, checked while the server is down. */
  async fsck() {
    const { code, output } = await this.command(["fsck", "--config", this.configFile]);
    if (code !== 0) throw new Error(`fsck ended with ${code}:\n${output}`);
  }

  /** What every test file ends with: a clean stop and a clean store. */
  async finish() {
    await this.stop();
    await this.fsck();
  }

  assertNoPanic() {
    const log = readFileSync(this.logFile, "utf8");
    if (/panicked at/.test(log)) throw new Error(`the server panicked; see ${this.logFile}`);
  }

  logTail() {
    try {
      return readFileSync(this.logFile, "utf8").split("\n").slice(-LOG_TAIL_LINES).join("\n");
    } catch {
      return "(no log)";
    }
  }
}
