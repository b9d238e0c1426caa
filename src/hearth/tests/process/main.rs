//! The executable itself: first start, commands beside a running and a stopped server, drain, copies.

#![expect(clippy::unwrap_used, reason = "helpers of tests fail by panicking")]

mod tls;

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, Output, Stdio},
};

use tempfile::TempDir;

const PASSWORD: &str = "correct horse\n";

/// A server's folder and configuration.
struct Home {
    folder: TempDir,
    address: SocketAddr,
}

/// A running server; killed if a test fails.
struct Running {
    child: Child,
    log: BufReader<ChildStdout>,
}

impl Home {
    fn new() -> Self {
        let probe = TcpListener::bind("127.0.0.1:0").unwrap();
        let home = Self { folder: tempfile::tempdir().unwrap(), address: probe.local_addr().unwrap() };
        home.configure("");
        home
    }

    fn configure(&self, more: &str) {
        self.configure_listener("", more);
    }

    /// With more keys for the listener, too.
    fn configure_listener(&self, listener: &str, more: &str) {
        let (data, address) = (self.folder.path().join("data"), self.address);
        let text = format!(
            "server_name = \"example.org\"\ndata_dir = {data:?}\nlisteners = [{{ bind = \"{address}\"{listener} }}]\n\
             passwords = {{ argon2_memory_kib = 8, argon2_iterations = 1 }}\n{more}"
        );
        fs::write(self.config(), text).unwrap();
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("hearth.toml")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        command.args(arguments).arg("--config").arg(self.config()).stdin(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// Runs a command to its end with this input.
    fn run(&self, arguments: &[&str], input: &str) -> Output {
        let mut child = self.command(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // A command that fails early does not read its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        child.wait_with_output().unwrap()
    }

    fn start(&self) -> Running {
        let mut child = self.command(&[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let log = BufReader::new(child.stdout.take().unwrap());
        let mut running = Running { child, log };
        running.wait_for("listening");
        running
    }

    /// Status and body of a GET.
    fn get(&self, path: &str) -> (u16, String) {
        self.ask("GET", path, "", "")
    }

    /// Status and body; the token may be empty.
    fn ask(&self, method: &str, path: &str, token: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        let length = body.len();
        let token = if token.is_empty() { String::new() } else { format!("Authorization: Bearer {token}\r\n") };
        let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{token}");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
        (status, answer.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned())
    }
}

impl Running {
    /// Reads the log until a line has these words.
    fn wait_for(&mut self, words: &str) -> String {
        let mut line = String::new();
        loop {
            line.clear();
            assert_ne!(self.log.read_line(&mut line).unwrap(), 0, "the server ended before it said {words:?}");
            if line.contains(words) {
                return line;
            }
        }
    }

    fn stop(mut self) -> Option<i32> {
        self.signal("TERM");
        self.child.wait().unwrap().code()
    }

    /// By the shell, as small systems have no `kill` of their own.
    fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().unwrap().success());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Mostly it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn a_first_start_makes_what_it_needs_and_says_how_to_go_on() {
    let home = Home::new();
    let mut child = home.command(&[]).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let log = BufReader::new(child.stdout.take().unwrap());
    let mut running = Running { child, log };
    let hint = running.wait_for("there are no accounts yet");
    assert!(hint.contains("hearth user create --config"), "{hint}");
    running.wait_for("listening");
    assert!(home.folder.path().join("data/signing.key").is_file());
    assert_eq!(home.get("/ready").0, 200);
    assert_eq!(home.get("/_matrix/client/v3/nothing").0, 404);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn accounts_are_made_beside_a_running_server_and_without_one() {
    let home = Home::new();
    let running = home.start();
    let made = home.run(&["user", "create", "--admin", "alice"], PASSWORD);
    assert_eq!(text(&made), "made @alice:example.org, an administrator\n");
    assert_eq!(running.stop(), Some(0));

    assert_eq!(text(&home.run(&["user", "create", "@bob:example.org"], PASSWORD)), "made @bob:example.org\n");
    let again = home.run(&["user", "create", "bob"], PASSWORD);
    assert!(!again.status.success() && text(&again).contains("taken"), "{}", text(&again));
    for wrong in ["Ünknown", "@carol:elsewhere.org", ""] {
        assert!(!home.run(&["user", "create", wrong], PASSWORD).status.success(), "{wrong}");
    }
    assert!(!home.run(&["user", "create", "carol"], "\n").status.success(), "an empty password");
    let running = home.start();
    let list = text(&home.run(&["user", "list"], ""));
    assert_eq!(list, "@alice:example.org (administrator)\n@bob:example.org\n");
    assert!(home.run(&["user", "reset-password", "bob"], PASSWORD).status.success());
    assert!(!home.run(&["user", "reset-password", "nobody"], PASSWORD).status.success());
    drop(running);
}

#[test]
fn a_copy_of_a_running_server_is_a_server() {
    let (home, other) = (Home::new(), Home::new());
    let running = home.start();
    assert!(home.run(&["user", "create", "alice"], PASSWORD).status.success());
    let folder = home.folder.path().join("copy");
    let folder = folder.to_str().unwrap();
    let backup = home.run(&["backup", folder], "");
    assert!(backup.status.success(), "{}", text(&backup));
    assert!(!home.run(&["backup", folder], "").status.success(), "a backup is never written over");
    assert!(home.run(&["user", "create", "bob"], PASSWORD).status.success());
    assert!(home.run(&["fsck"], "").status.success(), "beside a running server");
    assert_eq!(running.stop(), Some(0));

    let restored = other.run(&["restore", folder], "");
    assert!(restored.status.success(), "{}", text(&restored));
    assert!(!other.run(&["restore", folder], "").status.success(), "data is never written over");
    assert!(other.run(&["fsck"], "").status.success());
    assert_eq!(text(&other.run(&["user", "list"], "")), "@alice:example.org\n");
    let key = |home: &Home| fs::read_to_string(home.folder.path().join("data/signing.key")).unwrap();
    assert_eq!(key(&home), key(&other));
}

#[test]
fn a_key_that_was_changed_since_a_backup_is_not_lost_by_restoring() {
    let home = Home::new();
    assert!(home.run(&["user", "create", "alice"], PASSWORD).status.success());
    let folder = home.folder.path().join("backup");
    let restore = ["restore", folder.to_str().unwrap()];
    assert!(home.run(&["backup", restore[1]], "").status.success());
    assert!(home.run(&["federation", "rotate-key"], "").status.success());
    fs::remove_dir_all(home.folder.path().join("data/db")).unwrap();

    let key = home.folder.path().join("data/signing.key");
    let present = fs::read(&key).unwrap();
    let refused = home.run(&restore, "");
    assert!(!refused.status.success() && text(&refused).contains("is not the backup's key"), "{}", text(&refused));
    assert_eq!(fs::read(&key).unwrap(), present);

    for file in ["signing.key", "signing.key.old"] {
        fs::copy(home.folder.path().join("data").join(file), folder.join(file)).unwrap();
    }
    let restored = home.run(&restore, "");
    assert!(restored.status.success(), "{}", text(&restored));
    assert_eq!(fs::read(&key).unwrap(), present);
    assert_eq!(text(&home.run(&["user", "list"], "")), "@alice:example.org\n");
}

#[test]
fn connections_leave_descriptors_to_the_rest() {
    const DESCRIPTORS: usize = 400;
    let home = Home::new();
    let mut child = Command::new("sh");
    let arguments = [&format!("ulimit -n {DESCRIPTORS}; exec \"$@\""), "sh", env!("CARGO_BIN_EXE_hearth"), "--config"];
    let child = child.arg("-c").args(arguments).arg(home.config()).stdin(Stdio::null());
    let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let log = BufReader::new(child.stdout.take().unwrap());
    let mut running = Running { child, log };
    running.wait_for("as the system allows few open files");
    running.wait_for("listening");

    // They say nothing, and are as many as there are descriptors in all. Those that have no slot wait in the system's queue.
    let idle: Vec<_> = (0..DESCRIPTORS).map(|_| TcpStream::connect(home.address).unwrap()).collect();
    for name in ["alice", "bob", "carol"] {
        let made = home.run(&["user", "create", name], PASSWORD);
        assert!(made.status.success(), "{}", text(&made));
    }
    let folder = home.folder.path().join("backup");
    let backup = home.run(&["backup", folder.to_str().unwrap()], "");
    assert!(backup.status.success(), "{}", text(&backup));
    drop(idle);
    assert_eq!(home.get("/ready").0, 200);
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn a_restored_server_knows_the_tokens_that_it_forgot() {
    let (home, other) = (Home::new(), Home::new());
    for home in [&home, &other] {
        home.configure("registration = { open = true }\n");
    }
    let field = |(status, body): (u16, String), name: &str| {
        assert_eq!(status, 200, "{body}");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap();
        body[name].as_str().unwrap().to_owned()
    };
    let client = |path: &str| format!("/_matrix/client/v3/{path}");
    let running = home.start();
    let account = r#"{"username":"alice","password":"correct horse","auth":{"type":"m.login.dummy"}}"#;
    let alice = field(home.ask("POST", &client("register"), "", account), "access_token");
    let folder = home.folder.path().join("copy");
    assert!(home.run(&["backup", folder.to_str().unwrap()], "").status.success());
    let lost = field(home.ask("POST", &client("createRoom"), &alice, "{}"), "room_id");
    let since = field(home.ask("GET", &client("sync"), &alice, ""), "next_batch");
    assert_eq!(running.stop(), Some(0));

    assert!(other.run(&["restore", folder.to_str().unwrap()], "").status.success());
    let running = other.start();
    let room = field(other.ask("POST", &client("createRoom"), &alice, "{}"), "room_id");
    let (status, news) = other.ask("GET", &client(&format!("sync?since={since}")), &alice, "");
    assert_eq!(status, 200, "the place is not ahead of the server: {news}");
    assert!(news.contains(&room) && !news.contains(&lost), "what came after the restore is news: {news}");
    assert_eq!(running.stop(), Some(0));
    assert!(other.run(&["fsck"], "").status.success());
}

#[test]
fn data_belongs_to_one_name_and_one_process() {
    let home = Home::new();
    let running = home.start();
    let second = home.command(&[]).stdout(Stdio::piped()).output().unwrap();
    assert!(!second.status.success() && text(&second).contains("in use"), "{}", text(&second));
    drop(running);
    let config = fs::read_to_string(home.config()).unwrap().replace("example.org", "example.com");
    fs::write(home.config(), config).unwrap();
    let renamed = home.command(&[]).stdout(Stdio::piped()).output().unwrap();
    assert!(!renamed.status.success() && text(&renamed).contains("example.org"), "{}", text(&renamed));
}

#[test]
fn a_client_that_dawdles_does_not_hold_up_the_end() {
    let home = Home::new();
    let running = home.start();
    let mut half = TcpStream::connect(home.address).unwrap();
    half.write_all(b"GET /health HTTP/1.1\r\nHost:").unwrap();
    let mut idle = TcpStream::connect(home.address).unwrap();
    idle.write_all(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
    let mut first = [0; 12];
    idle.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(running.stop(), Some(0));
}

#[test]
fn metrics_have_a_listener_of_their_own() {
    let home = Home::new();
    let probe = TcpListener::bind("127.0.0.1:0").unwrap();
    let metrics = Home { folder: tempfile::tempdir().unwrap(), address: probe.local_addr().unwrap() };
    drop(probe);
    home.configure(&format!("metrics = {{ bind = \"{}\" }}\n", metrics.address));
    let running = home.start();
    assert_eq!(home.get("/metrics").0, 404);
    assert_eq!(home.get("/health").0, 200);
    let (status, page) = metrics.get("/metrics");
    assert_eq!(status, 200);
    assert!(page.contains("hearth_http_requests_total{route=\"GET /health\",status=\"200\"} 1"), "{page}");
    assert!(page.contains("hearth_http_request_duration_seconds_bucket"), "{page}");
    drop(running);
}

#[test]
fn without_certificate_authorities_it_says_what_to_install() {
    let home = Home::new();
    let none = home.folder.path().join("ca.crt");
    fs::write(&none, "").unwrap();
    let start = || {
        let mut command = home.command(&[]);
        command.env("SSL_CERT_FILE", &none).env_remove("SSL_CERT_DIR").stdout(Stdio::piped()).output().unwrap()
    };
    let output = start();
    assert!(!output.status.success());
    assert!(text(&output).contains("no certificate authority is known: install"), "{}", text(&output));
    home.configure(&format!("outbound = {{ extra_ca_files = [{none:?}] }}\n"));
    let output = start();
    assert!(!output.status.success() && text(&output).contains(none.to_str().unwrap()), "{}", text(&output));
}

#[test]
fn a_wrong_configuration_ends_at_once_with_its_line() {
    let home = Home::new();
    home.configure("registratoin = {}\n");
    let output = home.command(&["check-config"]).stdout(Stdio::piped()).output().unwrap();
    assert!(!output.status.success());
    let text = text(&output);
    assert!(text.contains("line 5") && text.contains("did you mean `registration`?"), "{text}");
    let missing = Path::new("/nonexistent/hearth.toml");
    let output = Command::new(env!("CARGO_BIN_EXE_hearth")).arg("--config").arg(missing).output().unwrap();
    assert!(!output.status.success());
}

#[test]
fn a_rotated_key_counts_from_the_next_start_and_the_old_one_stays_known() {
    let home = Home::new();
    let keys = || -> (String, Vec<String>) {
        let (status, body) = home.get("/_matrix/key/v2/server");
        assert_eq!(status, 200, "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        let ids = |field: &str| answer[field].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
        assert!(answer["signatures"]["example.org"][&ids("verify_keys")[0]].is_string());
        (ids("verify_keys").remove(0), ids("old_verify_keys"))
    };
    let rotate = || {
        let output = home.run(&["federation", "rotate-key"], "");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let running = home.start();
    let (first, old) = keys();
    assert!(old.is_empty());
    assert!(rotate().contains("from its next start on"));
    assert_eq!(keys().0, first);
    running.stop();
    let running = home.start();
    let (second, old) = keys();
    assert_eq!(old, std::slice::from_ref(&first));
    running.stop();
    assert!(rotate().contains("from now on"));
    let running = home.start();
    let (third, mut old) = keys();
    old.sort_unstable();
    let mut expected = [first.clone(), second.clone()];
    expected.sort_unstable();
    assert_eq!(old, expected);
    assert!(third != second && third != first);
    running.stop();
}
