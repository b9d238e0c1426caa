//! The configuration: what is refused and how it is said, what wins, and that its documentation is current.

use std::collections::BTreeMap;

use super::{Config, example, markdown, parse, types::Rate};

const NAME: &str = "server_name = \"example.org\"\n";

fn problems(text: &str, variables: &[(&str, &str)]) -> Vec<String> {
    let problems = parse(text, &owned(variables)).expect_err("the configuration is wrong");
    problems.into_iter().map(|problem| format!("{}: {}", problem.place, problem.message)).collect()
}

fn config(text: &str, variables: &[(&str, &str)]) -> Config {
    parse(text, &owned(variables)).expect("the configuration is right")
}

fn owned(variables: &[(&str, &str)]) -> BTreeMap<String, String> {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

#[test]
fn unknown_keys_are_named_with_line_and_suggestion() {
    let text = "server_name = \"a\"\nserver_nam = 1\n\n[registration]\nopn = true\n\n[[listeners]]\nbind = \"[::]:1\"\nbnd = 1\n[zebra]\n";
    let mut found = problems(text, &[]);
    found.sort();
    assert_eq!(
        found,
        [
            "line 10: unknown key `zebra`",
            "line 2: unknown key `server_nam`, did you mean `server_name`?",
            "line 5: unknown key `registration.opn`, did you mean `open`?",
            "line 9: unknown key `listeners.bnd`, did you mean `bind`?",
        ]
    );
}

#[test]
fn wrong_types_and_syntax_have_their_line() {
    assert!(problems("server_name = \"a\"\n[registration]\nopen = 3\n", &[])[0].starts_with("line 3: "));
    assert!(problems("server_name = \"a\"\n\nserver_name = \"b\"\n", &[])[0].starts_with("line 3: "));
    assert!(problems("a\n= = 3\n", &[])[0].starts_with("line 1: "));
    let rate = format!("{NAME}[rate_limits]\nlogin = {{ per_second = 1, burst = 1, bust = 2 }}\n");
    assert!(problems(&rate, &[])[0].starts_with("line 3: "));
}

#[test]
fn what_cannot_be_is_said() {
    let cases = [
        ("", "server_name: it is required"),
        ("server_name = \"a b\"", "server_name: `a b` is no server name"),
        (&format!("{NAME}default_room_version = \"99\""), "default_room_version: `99`"),
        (&format!("{NAME}public_base_url = \"example.org\""), "public_base_url: "),
        (&format!("{NAME}trusted_proxies = [\"10.0.0.0/33\"]"), "trusted_proxies: "),
        (&format!("{NAME}[registration]\nrequire_token = true"), "registration.require_token: "),
        (&format!("{NAME}[registration]\nshared_secret = \"\""), "registration: "),
        (&format!("{NAME}[registration]\ntokens = [\"a b\"]"), "registration.tokens: "),
        (&format!("{NAME}[database]\nurl = \"postgresql://x\""), "database.url: "),
        (&format!("{NAME}[rate_limits]\nlogin = {{ per_second = 0, burst = 1 }}"), "rate_limits.login: "),
        (&format!("{NAME}[[listeners]]\nbind = \"[::]:1\"\ntls_certificate = \"x\""), "listeners: "),
    ];
    for (text, message) in cases {
        let problems = problems(text, &[]);
        assert!(problems[0].starts_with(message), "{text}: {problems:?}");
    }
}

#[test]
fn variables_win_over_the_file() {
    let text = "server_name = \"a.example\"\n[registration]\nopen = false\nguests = true\n";
    let config = config(
        text,
        &[
            ("HEARTH_SERVER_NAME", "b.example"),
            ("HEARTH_REGISTRATION__OPEN", "true"),
            ("HEARTH_REGISTRATION__TOKENS", "one, two"),
            ("HEARTH_REGISTRATION__SHARED_SECRET", "12345"),
            ("HEARTH_MEMORY__CACHE_MIB", "7"),
            ("HEARTH_RATE_LIMITS__LOGIN", "{ per_second = 1.5, burst = 3 }"),
            ("HEARTH_LISTENERS", "[{ bind = \"0.0.0.0:1\", serve = [\"client\"] }]"),
            ("HEARTH_DATABASE_URL", "somebody else's variable"),
            ("HEARTH_CONFIG", "hearth.toml"),
            ("PATH", "/bin"),
        ],
    );
    assert_eq!(config.server_name, "b.example");
    assert!(config.registration.open && config.registration.guests);
    let tokens: Vec<_> = config.registration.tokens.iter().map(|token| token.0.as_str()).collect();
    assert_eq!(tokens, ["one", "two"]);
    assert_eq!(config.registration.shared_secret.unwrap().0, "12345");
    assert_eq!(config.memory.cache_mib, Some(7));
    assert_eq!(config.rate_limits.login, Rate { per_second: 1.5, burst: 3 });
    assert_eq!(config.listeners[0].bind.port(), 1);
}

#[test]
fn wrong_variables_are_named() {
    let found = problems(NAME, &[("HEARTH_REGISTRATION__OPN", "true")]);
    assert_eq!(found, ["HEARTH_REGISTRATION__OPN: no such key, did you mean OPEN?"]);
    let found = problems(NAME, &[("HEARTH_REGISTRATION__OPEN", "perhaps")]);
    assert!(found[0].starts_with("an environment variable: "), "{found:?}");
}

#[test]
fn secrets_do_not_show() {
    let config = config(&format!("{NAME}[registration]\nshared_secret = \"hidden\"\ntokens = [\"hidden\"]"), &[]);
    assert!(!format!("{config:?}").contains("hidden"));
}

#[test]
fn the_example_is_a_configuration_and_so_is_each_of_its_lines() {
    let text = example();
    let read = config(&text, &[]);
    assert_eq!(toml::Table::try_from(&read).unwrap(), toml::Table::try_from(config(NAME, &[])).unwrap());
    let key = |line: &&str| line.starts_with("# [") || line.starts_with("# ") && line.contains(" = ");
    let all: String =
        text.lines().map(|line| if key(&line) { &line[2..] } else { line }).collect::<Vec<_>>().join("\n");
    let found = problems(&all, &[]);
    // Everything at once contradicts the sentence about PostgreSQL, and nothing else.
    assert_eq!(found.len(), 1, "{found:?}");
    assert!(found[0].starts_with("database.url"), "{found:?}");
}

/// The keys of SyTest's plugin.
#[test]
fn the_tests_of_the_protocol_can_configure_us() {
    let text = r#"
server_name = "localhost:18000"
public_base_url = "https://localhost:18000"
data_dir = "/tmp/server-0/data"
[[listeners]]
bind = "127.0.0.1:18000"
serve = ["client", "federation"]
tls_certificate = "/tmp/server-0/tls.crt"
tls_private_key = "/tmp/server-0/tls.key"
[registration]
open = true
guests = true
shared_secret = "reg_secret"
[registration.recaptcha]
siteverify_url = "https://localhost:1/recaptcha/api/siteverify"
public_key = "sytest_recaptcha_public_key"
private_key = "sytest_recaptcha_private_key"
[passwords]
argon2_memory_kib = 64
argon2_iterations = 1
[federation]
trusted_key_servers = []
[room_directory]
public_without_auth = true
public_over_federation = true
[outbound]
extra_ca_files = ["/tmp/keys/ca.crt"]
insecure_skip_verify_except_federation = true
denied_ip_ranges = []
[url_preview]
enabled = true
denied_ip_ranges = []
[media]
max_upload_bytes = 52428800
[rate_limits]
enabled = false
[appservices]
registration_files = ["/tmp/server-0/appserv-0.yaml"]
[email]
smtp_host = "localhost"
smtp_port = 39261
smtp_tls = "none"
from = "hearth@localhost"
[cas]
server_url = "https://localhost:1/cas"
"#;
    let config = config(text, &[]);
    assert!(config.registration.open && !config.rate_limits.enabled);
}

#[test]
fn the_documentation_is_current() {
    let file = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/configuration.md");
    let written = std::fs::read_to_string(&file).unwrap_or_default();
    assert!(
        written == markdown(),
        "docs/configuration.md is old: cargo run -p hearth -- generate-config --markdown > docs/configuration.md"
    );
}
