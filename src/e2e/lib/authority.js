// A certificate authority of the tests' own, so that servers check each other's certificates as they would anywhere.

import { execFileSync } from "node:child_process";
import { mkdirSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";

/** Certificates end with the run. */
const DAYS = "2";

export class Authority {
  /** Makes one in this folder. */
  constructor(dir) {
    rmSync(dir, { recursive: true, force: true });
    mkdirSync(dir, { recursive: true });
    this.dir = dir;
    this.certificate = path.join(dir, "ca.crt");
    this.key = path.join(dir, "ca.key");
    const extensions = ["-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign"];
    this.#openssl([
      "req",
      "-x509",
      ...newKey(this.key),
      "-subj",
      "/CN=hearth e2e",
      "-days",
      DAYS,
      ...extensions,
      "-out",
      this.certificate,
    ]);
  }

  /** A certificate for `localhost` and 127.0.0.1: `{ certificate, key }`, PEM files. */
  issue(name) {
    const [certificate, key, request, extensions] = ["crt", "key", "csr", "ext"].map((end) =>
      path.join(this.dir, `${name}.${end}`),
    );
    writeFileSync(extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n");
    this.#openssl(["req", ...newKey(key), "-subj", "/CN=localhost", "-out", request]);
    const signer = ["-CA", this.certificate, "-CAkey", this.key, "-CAcreateserial"];
    this.#openssl([
      "x509",
      "-req",
      "-in",
      request,
      ...signer,
      "-days",
      DAYS,
      "-extfile",
      extensions,
      "-out",
      certificate,
    ]);
    return { certificate, key };
  }

  #openssl(args) {
    execFileSync("openssl", args, { stdio: ["ignore", "ignore", "pipe"] });
  }
}

const newKey = (file) => ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", file];
