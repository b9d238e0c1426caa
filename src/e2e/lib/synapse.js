// The other homeserver: a stock Synapse from PyPI, on SQLite and loopback. See `.ci/setup synapse`.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, mkdirSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import path from "node:path";
import { WORK_DIR, freePort } from "./server.js";
import { eventually, within } from "./wait.js";

const REPOSITORY = fileURLToPath(new URL("../../..", import.meta.url));

/** The Python that has matrix-synapse. */
const PYTHON = path.resolve(process.env.SYNAPSE_PYTHON ?? path.join(REPOSITORY, "target/synapse/bin/python"));

/** Synapse makes its tables first. In ms. */
const START_MS = 120_000;

/** In ms. */
const STOP_MS = 30_000;

const FAST = { per_second: 1_000_000, burst_count: 1_000_000 };

function configuration({ dir, name, port, tlsPort, authority, identity }) {
  return {
    server_name: name,
    public_baseurl: `http://127.0.0.1:${port}/`,
    pid_file: path.join(dir, "synapse.pid"),
    signing_key_path: path.join(dir, "signing.key"),
    media_store_path: path.join(dir, "media"),
    log_config: path.join(dir, "log.yaml"),
    report_stats: false,
    macaroon_secret_key: "macaroon",
    form_secret: "form",
    bcrypt_rounds: 4,
    enable_registration: true,
    enable_registration_without_verification: true,
    allow_public_rooms_over_federation: true,
    allow_public_rooms_without_auth: true,
    require_membership_for_aliases: false,
    room_list_publication_rules: [{ action: "allow" }],
    trusted_key_servers: [],
    federation_custom_ca_list: [authority.certificate],
    ip_range_blacklist: [],
    url_preview_enabled: false,
    tls_certificate_path: identity.certificate,
    tls_private_key_path: identity.key,
    listeners: [
      { type: "http", bind_addresses: ["127.0.0.1"], port, tls: false, resources: [{ names: ["client"] }] },
      {
        type: "http",
        bind_addresses: ["127.0.0.1"],
        port: tlsPort,
        tls: true,
        resources: [{ names: ["federation", "keys"] }],
      },
    ],
    database: { name: "sqlite3", args: { database: path.join(dir, "homeserver.db") } },
    // Whom it did not reach it tries again soon: a test waits for it.
    federation: {
      destination_min_retry_interval: "1s",
      destination_retry_multiplier: 1,
      destination_max_retry_interval: "1s",
      max_long_retries: 2,
      max_long_retry_delay: "1s",
      max_short_retry_delay: "1s",
    },
    // What it does after its first start keeps its one connection to the database busy, for a minute if it may rest.
    background_updates: { sleep_enabled: false },
    rc_message: FAST,
    rc_registration: FAST,
    rc_login: { address: FAST, account: FAST, failed_attempts: FAST },
    rc_joins: { local: FAST, remote: FAST },
    rc_joins_per_room: FAST,
    rc_invites: { per_room: FAST, per_user: FAST, per_issuer: FAST },
    rc_room_creation: FAST,
    rc_federation: { sleep_limit: 100_000, window_size: 1000, reject_limit: 100_000, concurrent: 100 },
  };
}

const logging = (file) => ({
  version: 1,
  disable_existing_loggers: false,
  formatters: { brief: { format: "%(asctime)s %(name)s %(levelname)s %(message)s" } },
  handlers: { file: { class: "logging.FileHandler", filename: file, formatter: "brief" } },
  root: { level: "INFO", handlers: ["file"] },
});

export class Synapse {
  #child = null;
  #exit = null;

  /** Configured, not started. `relay` is its port as others know it; `authority` signs its certificate. */
  static async create(folder, { authority, relay }) {
    const dir = path.join(WORK_DIR, folder);
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    const [port, tlsPort] = [await freePort(), await freePort()];
    relay.target = tlsPort;
    return new Synapse({
      dir,
      port,
      tlsPort,
      name: `localhost:${relay.port}`,
      authority,
      identity: authority.issue(folder),
    });
  }

  constructor(options) {
    this.dir = options.dir;
    this.name = options.name;
    this.baseUrl = `http://127.0.0.1:${options.port}`;
    this.logFile = path.join(this.dir, "synapse.log");
    this.configFile = path.join(this.dir, "homeserver.yaml");
    // JSON is YAML.
    writeFileSync(this.configFile, JSON.stringify(configuration(options), null, 2));
    writeFileSync(path.join(this.dir, "log.yaml"), JSON.stringify(logging(this.logFile)));
    // A key of ed25519, as `--generate-keys` makes it, without a start of Python.
    const seed = randomBytes(32).toString("base64").replace(/=+$/, "");
    writeFileSync(path.join(this.dir, "signing.key"), `ed25519 a_e2e ${seed}\n`);
  }

  async start() {
    const log = openSync(path.join(this.dir, "out.log"), "a");
    const child = spawn(PYTHON, ["-m", "synapse.app.homeserver", "-c", this.configFile], {
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    let ended = false;
    this.#child = child;
    this.#exit = new Promise((resolve) => child.once("exit", resolve)).then(() => (ended = true));
    const ask = async () => {
      const response = await fetch(`${this.baseUrl}/_matrix/client/versions`);
      await response.arrayBuffer();
      if (!response.ok) throw new Error(`/versions answered ${response.status}`);
    };
    await eventually(ask, `Synapse answers (see ${this.dir})`, { ms: START_MS, hopeless: () => ended });
  }

  /** Ends the process, politely. */
  async stop() {
    if (!this.#child) return;
    this.#child.kill("SIGTERM");
    await within(this.#exit, "Synapse ends", STOP_MS).catch(() => this.#child.kill("SIGKILL"));
    this.#child = null;
  }

  logTail(lines = 40) {
    return readFileSync(this.logFile, "utf8").split("\n").slice(-lines).join("\n");
  }
}
