//! What a configuration must be beyond its types, said so that it can be put right.

use hearth_core::PublicKey;
use hearth_edge::Cidr;
use hearth_federation::policy::ServerPattern;
use hearth_net::AddressRange;
use ruma::{RoomVersionId, ServerName, UserId};

use super::{
    Config, Problem,
    types::{Listener, OldSigningKey, SupportContact},
};

/// The least that argon2 takes for one lane, in KiB.
const ARGON2_MEMORY_KIB_MIN: u32 = 8;

/// hyper needs so much for a head.
const HEAD_BYTES_MIN: usize = 8_192;

/// Every problem at once.
pub(crate) fn check(config: &Config) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut wrong = |key: &str, message: String| problems.push(Problem::of(key, message));
    match config.server_name.as_str() {
        "" => wrong("server_name", "it is required: the name behind the colon in @alice:example.org".to_owned()),
        name => {
            if let Err(error) = ServerName::parse(name) {
                wrong("server_name", format!("`{name}` is no server name: {error}"));
            }
        }
    }
    if let Some(url) = config.public_base_url.as_deref().filter(|url| !is_http(url)) {
        wrong("public_base_url", format!("`{url}` must begin with https:// or http://"));
    }
    let version = config.default_room_version.as_str();
    if RoomVersionId::try_from(version).ok().and_then(|version| version.rules()).is_none() {
        wrong("default_room_version", format!("`{version}` is no room version that hearth knows: 1 to 12"));
    }
    for range in &config.trusted_proxies {
        if let Err(error) = range.parse::<Cidr>() {
            wrong("trusted_proxies", error.to_string());
        }
    }
    for listener in &config.listeners {
        listener_problem(listener).into_iter().for_each(|message| wrong("listeners", message));
    }
    if config.database.as_ref().is_some_and(|database| database.url.is_some()) {
        wrong("database.url", "PostgreSQL is not built yet: remove the key, and data_dir holds the data".to_owned());
    }
    if config.registration.require_token && config.registration.tokens.is_empty() {
        wrong(
            "registration.require_token",
            "there are no registration.tokens, so that nobody could register".to_owned(),
        );
    }
    let secrets = config.registration.tokens.iter().chain(&config.registration.shared_secret);
    if secrets.into_iter().any(|secret| secret.0.is_empty()) {
        wrong(
            "registration",
            "an empty token or shared_secret would let anybody in: choose one or remove it".to_owned(),
        );
    }
    if config.registration.tokens.iter().any(|token| !is_registration_token(&token.0)) {
        wrong("registration.tokens", "a token has 1 to 64 characters of a-z A-Z 0-9 . _ ~ -".to_owned());
    }
    numbers(config, &mut wrong);
    others(config, &mut wrong);
    for contact in &config.well_known.support_contacts {
        contact_problem(contact).into_iter().for_each(|message| wrong("well_known.support_contacts", message));
    }
    problems
}

fn numbers(config: &Config, wrong: &mut impl FnMut(&str, String)) {
    if config.http.head_bytes_max < HEAD_BYTES_MIN {
        wrong("http.head_bytes_max", format!("at least {HEAD_BYTES_MIN}"));
    }
    let http = &config.http;
    if http.connections_max == 0 || http.requests_max == 0 || http.head_timeout_s == 0 {
        wrong("http", "connections_max, requests_max and head_timeout_s are at least 1".to_owned());
    }
    if config.passwords.argon2_memory_kib < ARGON2_MEMORY_KIB_MIN || config.passwords.argon2_iterations == 0 {
        let message = format!("argon2_memory_kib is at least {ARGON2_MEMORY_KIB_MIN}, argon2_iterations at least 1");
        wrong("passwords", message);
    }
    for (limit, rate) in config.rate_limits.rates() {
        if !rate.per_second.is_finite() || rate.per_second <= 0.0 || rate.burst == 0 {
            let key = format!("rate_limits.{}", limit.name());
            wrong(&key, "per_second is more than 0 and burst at least 1; enabled = false switches all off".to_owned());
        }
    }
}

/// What concerns other servers.
fn others(config: &Config, wrong: &mut impl FnMut(&str, String)) {
    let federation = &config.federation;
    let lists = [
        ("federation.allowed_servers", federation.allowed_servers.as_deref().unwrap_or_default()),
        ("federation.denied_servers", federation.denied_servers.as_slice()),
    ];
    for (key, patterns) in lists {
        patterns
            .iter()
            .filter_map(|pattern| ServerPattern::parse(pattern).err())
            .for_each(|e| wrong(key, e.to_string()));
    }
    for name in &federation.trusted_key_servers {
        if let Err(error) = ServerName::parse(name) {
            wrong("federation.trusted_key_servers", format!("`{name}` is no server name: {error}"));
        }
    }
    for OldSigningKey { id, key, expired_ts } in &federation.old_signing_keys {
        if !id.starts_with("ed25519:") || PublicKey::from_base64(key, 0).is_none() || *expired_ts == 0 {
            let message = format!("`{id}`: it needs an id like ed25519:a_1, the public key in base64, and expired_ts");
            wrong("federation.old_signing_keys", message);
        }
    }
    if federation.room_answer_mib_max == 0 {
        wrong("federation.room_answer_mib_max", "at least 1".to_owned());
    }
    let outbound = &config.outbound;
    let lists = [
        ("outbound.denied_ip_ranges", outbound.denied_ip_ranges.as_deref().unwrap_or_default()),
        ("outbound.allowed_ip_ranges", outbound.allowed_ip_ranges.as_slice()),
    ];
    for (key, ranges) in lists {
        ranges.iter().filter_map(|range| range.parse::<AddressRange>().err()).for_each(|e| wrong(key, e.to_string()));
    }
    if outbound.connect_timeout_s == 0 {
        wrong("outbound.connect_timeout_s", "at least 1".to_owned());
    }
}

fn listener_problem(listener: &Listener) -> Option<String> {
    let Listener { bind, serve, tls_certificate, tls_private_key } = listener;
    if tls_certificate.is_some() != tls_private_key.is_some() {
        return Some(format!("{bind}: tls_certificate and tls_private_key go together"));
    }
    serve.is_empty().then(|| format!("{bind}: `serve` is empty; write serve = [\"client\"]"))
}

fn contact_problem(contact: &SupportContact) -> Option<String> {
    match (&contact.matrix_id, &contact.email_address) {
        (None, None) => Some("each needs a matrix_id or an email_address".to_owned()),
        (Some(id), _) if UserId::parse(id).is_err() => Some(format!("`{id}` is no Matrix id like @admin:example.org")),
        _ => None,
    }
}

fn is_http(url: &str) -> bool {
    url.starts_with("https://") || url.starts_with("http://")
}

/// The grammar of "Token-authenticated registration".
fn is_registration_token(token: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "._~-".contains(c);
    token.len() <= 64 && token.chars().all(allowed)
}
