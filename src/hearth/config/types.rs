//! Every key of the configuration. The words here are the operator's documentation: `docs/configuration.md` and
//! `hearth generate-config` are made from them.

use std::{net::SocketAddr, path::PathBuf};

use hearth_edge::{EdgeSettings, Limit, LimitRate};
use serde::{Deserialize, Serialize};

use super::schema::{Kind, Secret, Setting, settings, values};

settings! {
    /// The server as a whole.
    struct Config {
        /// The server's name: the part behind the colon in `@alice:example.org`. It cannot be changed later. **Required.**
        server_name: String = String::new(), example "\"example.org\"";
        /// Where clients reach the server, if not at `https://<server_name>`. Shown in `/.well-known/matrix/client`.
        public_base_url: Option<String> = None, example "\"https://matrix.example.org\"";
        /// The folder for everything that the server keeps: the database, its signing key, the socket for commands.
        data_dir: PathBuf = PathBuf::from("data");
        /// The version of new rooms whose creator does not name one.
        default_room_version: String = "12".to_owned();
        /// Addresses or ranges (`10.0.0.0/8`) of the reverse proxies in front. Only their `X-Forwarded-For` is believed.
        trusted_proxies: Vec<String> = Vec::new();
        /// The addresses to listen on. Without any: plain HTTP on 127.0.0.1:8008.
        listeners: Vec<Listener> = Vec::new();
        /// Limits of the listeners.
        http: Http = Http::default();
        /// The database.
        database: Option<Database> = None;
        /// Who may make an account.
        registration: Registration = Registration::default();
        /// Passwords and their hashes (argon2id).
        passwords: Passwords = Passwords::default();
        /// The room directory.
        room_directory: RoomDirectory = RoomDirectory::default();
        /// The user directory: who is found by name.
        user_directory: UserDirectory = UserDirectory::default();
        /// Presence: who is online.
        presence: Presence = Presence::default();
        /// What `/.well-known/matrix/*` answers.
        well_known: WellKnown = WellKnown::default();
        /// Limits on how often an account or an address may ask. A client that exceeds one gets 429 `M_LIMIT_EXCEEDED`.
        ///
        /// Each class is a bucket of `burst` requests that refills at `per_second`.
        rate_limits: RateLimits = RateLimits::default();
        /// The log, on standard output.
        logging: Logging = Logging::default();
        /// Prometheus metrics.
        metrics: Metrics = Metrics::default();
        /// Memory.
        memory: Memory = Memory::default();
        /// Administration.
        admin: Admin = Admin::default();
        /// Talking to other servers.
        federation: Federation = Federation::default();
        /// All requests that the server makes.
        outbound: Outbound = Outbound::default();
        /// Previews of web pages. *Read, used by a later version.*
        url_preview: UrlPreview = UrlPreview::default();
        /// The media repository. *Read, used by a later version.*
        media: Media = Media::default();
        /// Bridges and bots. *Read, used by a later version.*
        appservices: Appservices = Appservices::default();
        /// Mail. *Read, used by a later version.*
        email: Option<Email> = None;
        /// Single sign-on by CAS. *Read, used by a later version.*
        cas: Option<Cas> = None;
    }

    /// An address to listen on.
    struct Listener {
        /// An IP address and a port; `0.0.0.0` and `[::]` are all of the machine's.
        bind: SocketAddr = DEFAULT_BIND;
        /// Which APIs: `client`, `federation` (with `/_matrix/key`).
        serve: Vec<Api> = vec![Api::Client, Api::Federation];
        /// The certificate chain, PEM. With it the listener speaks TLS only. Read again on SIGHUP.
        tls_certificate: Option<PathBuf> = None, example "\"/etc/hearth/tls.crt\"";
        /// The certificate's key, PEM (PKCS #8, PKCS #1 or SEC1).
        tls_private_key: Option<PathBuf> = None, example "\"/etc/hearth/tls.key\"";
    }

    /// Limits of the listeners.
    struct Http {
        /// Connections at once, each listener, as far as the system allows so many open files. More wait in the system's
        /// queue.
        connections_max: usize = 10_000;
        /// Requests of clients that are worked on at once, all listeners together, and as many of servers. Further ones are
        /// refused with 503 and `Retry-After`. Long-polls that wait for news and bodies that are still being sent do not
        /// count.
        requests_max: usize = EdgeSettings::REQUESTS_MAX;
        /// The head of a request, its line and headers, in bytes (HTTP/1; at least 8192).
        head_bytes_max: usize = 32_768;
        /// A client has so long for the head of a request, in seconds; idle connections end after it too.
        head_timeout_s: u64 = 90;
    }

    /// The database.
    struct Database {
        /// A PostgreSQL database in place of the folder. This version has RocksDB only and refuses to start with this key.
        url: Option<String> = None, example "\"postgresql://hearth@localhost/hearth\"";
    }

    /// Who may make an account.
    struct Registration {
        /// Anyone may.
        open: bool = false;
        /// Guests: accounts without a name and password, for looking around.
        guests: bool = false;
        /// Tokens, each of which lets its bearer make accounts, even if registration is not open: 1 to 64 characters of
        /// `a-z A-Z 0-9 . _ ~ -`. One that is taken out of this list works for another 15 minutes.
        tokens: Vec<Secret> = Vec::new();
        /// Registration needs one of the tokens, even if it is open.
        require_token: bool = false;
        /// The secret of `POST /_synapse/admin/v1/register`, with which scripts make accounts. Absent: no such endpoint.
        shared_secret: Option<Secret> = None, example "\"a long random text\"";
        /// Google's reCAPTCHA. *Read, used by a later version.*
        recaptcha: Option<Recaptcha> = None;
    }

    /// Google's reCAPTCHA. *Read, used by a later version.*
    struct Recaptcha {
        /// Where answers are verified.
        siteverify_url: Option<String> = None, example "\"https://www.google.com/recaptcha/api/siteverify\"";
        /// The public key.
        public_key: Option<String> = None, example "\"6Lc...\"";
        /// The private key.
        private_key: Option<Secret> = None, example "\"6Lc...\"";
    }

    /// Passwords and their hashes (argon2id).
    struct Passwords {
        /// Memory for a hash, in KiB. Existing hashes keep theirs until the next login.
        argon2_memory_kib: u32 = 19_456;
        /// Passes over that memory.
        argon2_iterations: u32 = 2;
        /// Hashes computed at once; 0: half of the processors, at least one. The others wait, a bounded number of them.
        hashes_at_once: usize = 0;
    }

    /// The room directory.
    struct RoomDirectory {
        /// `GET /publicRooms` works without an account.
        public_without_auth: bool = false;
        /// Other servers may read the directory.
        public_over_federation: bool = false;
    }

    /// The user directory: who is found by name.
    ///
    /// People find those with whom they share a room, and those who are in rooms that anybody may join or read.
    struct UserDirectory {
        /// Off: nobody is found, and no index is kept. Switched on again, it is brought up to date first.
        enabled: bool = true;
        /// Every account of this server is found by every other, also by those who share no room with it. For the servers of
        /// organisations, where everybody may know who else there is.
        all_local_accounts: bool = false;
    }

    /// Presence: who is online.
    struct Presence {
        /// Off: every status is accepted and nobody is told.
        enabled: bool = true;
    }

    /// What `/.well-known/matrix/*` answers.
    struct WellKnown {
        /// Answer `/.well-known/matrix/client` with `public_base_url`.
        client: bool = true;
        /// Host and port for other servers, for `/.well-known/matrix/server`. Absent: 404.
        server: Option<String> = None, example "\"matrix.example.org:443\"";
        /// The page for help, for `/.well-known/matrix/support`.
        support_page: Option<String> = None, example "\"https://example.org/help\"";
        /// The people for help, for `/.well-known/matrix/support`.
        support_contacts: Vec<SupportContact> = Vec::new();
    }

    /// The people for help, for `/.well-known/matrix/support`. Each needs a Matrix id or a mail address.
    struct SupportContact {
        /// `m.role.admin`, `m.role.security` or a role of your own.
        role: String = "m.role.admin".to_owned();
        /// A Matrix id.
        matrix_id: Option<String> = None, example "\"@admin:example.org\"";
        /// A mail address.
        email_address: Option<String> = None, example "\"admin@example.org\"";
    }

    /// Limits on how often an account or an address may ask. A client that exceeds one gets 429 `M_LIMIT_EXCEEDED`.
    ///
    /// Each class is a bucket of `burst` requests that refills at `per_second`.
    struct RateLimits {
        /// Off: no limits at all.
        enabled: bool = true;
        /// What no other class names, by account.
        default: Rate = Rate::of(Limit::Default);
        /// Attempts to log in, by address.
        login: Rate = Rate::of(Limit::Login);
        /// Attempts to log in, by the account that is named.
        login_account: Rate = Rate::of(Limit::LoginAccount);
        /// Registrations, by address.
        registration: Rate = Rate::of(Limit::Registration);
        /// Messages and other events sent, by account.
        message: Rate = Rate::of(Limit::Message);
        /// Joins and knocks, by account.
        join: Rate = Rate::of(Limit::Join);
        /// Invites, by account.
        invite: Rate = Rate::of(Limit::Invite);
        /// Rooms created, by account.
        create_room: Rate = Rate::of(Limit::CreateRoom);
        /// Searches in the directories, by account.
        search: Rate = Rate::of(Limit::Search);
        /// Changes of profile, presence and typing, by account.
        profile: Rate = Rate::of(Limit::Profile);
        /// Requests of other servers, by server; for keys, by address.
        federation: Rate = Rate::of(Limit::Federation);
        /// Requests in the name of other servers whose signatures are not checked yet, by address.
        federation_address: Rate = Rate::of(Limit::FederationAddress);
    }

    /// The log, on standard output.
    struct Logging {
        /// `human` or `json`.
        format: LogFormat = LogFormat::Human;
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter like `info,hearth_rooms=debug`.
        level: String = "info".to_owned();
    }

    /// Prometheus metrics.
    struct Metrics {
        /// Where `/metrics` is served; not for the public. Absent: nowhere.
        bind: Option<SocketAddr> = None, example "\"127.0.0.1:9008\"";
    }

    /// Memory.
    struct Memory {
        /// The budget for caches, in MiB. Absent: a quarter of the control group's limit or of the machine's memory, at
        /// most 1024.
        cache_mib: Option<u64> = None, example "512";
    }

    /// Administration.
    struct Admin {
        /// While the server runs, `hearth user …` talks to it by a socket in `data_dir` that only the server's own user
        /// can open.
        socket: bool = true;
    }

    /// Talking to other servers.
    struct Federation {
        /// Off: the rooms, users and aliases of other servers do not exist here, and other servers get 404.
        enabled: bool = true;
        /// Talk to these servers only: names of hosts without a port, `*` for any characters, `?` for one. Absent: to all.
        allowed_servers: Option<Vec<String>> = None, example "[\"*.example.org\"]";
        /// Never talk to these servers, even if they are allowed. Written like `allowed_servers`.
        denied_servers: Vec<String> = Vec::new();
        /// Servers that are asked for other servers' keys where those do not answer, or where many are needed at once. Their
        /// word is taken, so name only servers that you trust. None: each server is asked itself.
        trusted_key_servers: Vec<String> = Vec::new();
        /// Keys that this server signed with before the one in `data_dir`: others need them for old events.
        old_signing_keys: Vec<OldSigningKey> = Vec::new();
        /// The largest answer that is taken from another server on joining one of its rooms, in MiB. Such an answer is held
        /// in memory for a while.
        room_answer_mib_max: u32 = 50;
        /// Tell other servers who is online, if `presence.enabled`.
        presence: bool = true;
        /// Tell other servers who is typing.
        typing: bool = true;
        /// Tell other servers what was read.
        receipts: bool = true;
    }

    /// Keys that this server signed with before the one in `data_dir`: others need them for old events.
    struct OldSigningKey {
        /// The key's id.
        id: String = String::new(), example "\"ed25519:a_abcdef\"";
        /// The public key, base64.
        key: String = String::new(), example "\"VGhpcyBzaG91bGQgYmUgYSByZWFsIGVkMjU1MTkga2U\"";
        /// When it was last used, in milliseconds since 1970.
        expired_ts: u64 = 0, example "1700000000000";
    }

    /// All requests that the server makes.
    struct Outbound {
        /// Certificate authorities that are trusted beside the system's, PEM.
        extra_ca_files: Vec<PathBuf> = Vec::new();
        /// Any certificate is accepted, except from other homeservers. For tests only.
        insecure_skip_verify_except_federation: bool = false;
        /// Addresses that are never connected to. Absent: private, loopback, link-local and reserved ranges.
        denied_ip_ranges: Option<Vec<String>> = None, example "[\"10.0.0.0/8\"]";
        /// Addresses that are connected to although they are denied.
        allowed_ip_ranges: Vec<String> = Vec::new();
        /// The name servers to ask, as `192.0.2.53:53`. None: those of the system.
        name_servers: Vec<SocketAddr> = Vec::new();
        /// What is waited for a connection to an address, in seconds.
        connect_timeout_s: u32 = 10;
    }

    /// Previews of web pages. *Read, used by a later version.*
    struct UrlPreview {
        /// Make previews.
        enabled: bool = false;
        /// Addresses that no page is fetched from. Absent: private, loopback, link-local and reserved ranges.
        denied_ip_ranges: Option<Vec<String>> = None, example "[\"10.0.0.0/8\"]";
    }

    /// The media repository. *Read, used by a later version.*
    struct Media {
        /// The largest file, in bytes.
        max_upload_bytes: u64 = 52_428_800;
    }

    /// Bridges and bots. *Read, used by a later version.*
    struct Appservices {
        /// Registration files, YAML as the specification has it.
        registration_files: Vec<PathBuf> = Vec::new();
    }

    /// Mail. *Read, used by a later version.*
    struct Email {
        /// The mail server.
        smtp_host: Option<String> = None, example "\"localhost\"";
        /// Its port.
        smtp_port: u32 = 587;
        /// `none`, `starttls` or `tls`.
        smtp_tls: SmtpTls = SmtpTls::Starttls;
        /// The sender of the server's mails.
        from: Option<String> = None, example "\"hearth@example.org\"";
    }

    /// Single sign-on by CAS. *Read, used by a later version.*
    struct Cas {
        /// The CAS server.
        server_url: Option<String> = None, example "\"https://cas.example.org/cas\"";
    }
}

/// The listener of a configuration that names none.
const DEFAULT_BIND: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8008);

/// What a listener serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Api {
    /// The client-server API.
    Client,
    /// The server-server API.
    Federation,
}

/// How the log is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// How mail is encrypted on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SmtpTls {
    /// Not at all.
    None,
    /// After a plain greeting.
    Starttls,
    /// From the first byte.
    Tls,
}

/// A bucket's rate.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Rate {
    /// Requests a second over long times.
    pub(crate) per_second: f64,
    /// Requests at once.
    pub(crate) burst: u32,
}

impl Rate {
    fn of(limit: Limit) -> Self {
        let LimitRate { per_second, burst } = limit.default_rate();
        Self { per_second, burst }
    }
}

values! {
    Api: "`client`, `federation`",
    LogFormat: "`human` or `json`",
    SmtpTls: "`none`, `starttls` or `tls`",
    Rate: "a rate",
}

impl RateLimits {
    /// Class and rate.
    pub(crate) fn rates(&self) -> [(Limit, &Rate); Limit::ALL.len()] {
        [
            (Limit::Default, &self.default),
            (Limit::Login, &self.login),
            (Limit::LoginAccount, &self.login_account),
            (Limit::Registration, &self.registration),
            (Limit::Message, &self.message),
            (Limit::Join, &self.join),
            (Limit::Invite, &self.invite),
            (Limit::CreateRoom, &self.create_room),
            (Limit::Search, &self.search),
            (Limit::Profile, &self.profile),
            (Limit::Federation, &self.federation),
            (Limit::FederationAddress, &self.federation_address),
        ]
    }
}
