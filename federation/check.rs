//! What an operator wants to know of another server: how it is reached, what its keys are, whether it is left alone.

use std::fmt::Write as _;

use hearth_ports::PeerError;
use http::Method;
use ruma::ServerName;
use serde::Deserialize;

use crate::{
    discovery::Place,
    keys::{KeyRing, KeyStatus},
    remote::{Ask, Backoff, Remote, Urgency},
};

/// What is waited for the version.
const TIMEOUT_MS: u64 = 10_000;
/// The largest answer with a version, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 10;
/// Characters of another server's words that are shown.
const WORDS_MAX: usize = 200;

/// Looks for a server step by step, asks for its version and its keys, and says it in lines for a person. Everything is
/// asked anew, whatever is known and however the server was reached lately.
pub async fn check(remote: &Remote, keys: &KeyRing, server: &ServerName, now_ms: u64) -> String {
    let mut text = format!("{server}\n");
    if !remote.policy().allows(server) {
        let why = if *server == remote.policy().own { "this is us" } else { "the configuration denies it" };
        let _ = writeln!(text, "  we don't talk to it: {why}");
        return text;
    }
    // Before it is asked: asking changes it.
    let backoff = remote.backoff(server);
    let (steps, found) = remote.discovery().explain(server).await;
    for step in steps {
        let _ = writeln!(text, "  looked up   {step}");
    }
    match found {
        Ok(place) => place_lines(&mut text, &place),
        Err(error) => {
            let _ = writeln!(text, "  not found   {error}");
        }
    }
    let version = match version(remote, server).await {
        Ok(version) => version,
        // The reason is the operator's own, and so is what they read here.
        Err(error @ PeerError::Denied) => {
            let reason = remote.last_failure(server).unwrap_or_default();
            format!("none: {error} ({reason})")
        }
        Err(error) => format!("none: {error}"),
    };
    let _ = writeln!(text, "  version     {version}");
    match keys.fetch_now(server).await {
        Ok(()) => text.push_str("  keys        fetched now\n"),
        Err(error) => {
            let _ = writeln!(text, "  keys        not fetched: {}", short(&error));
        }
    }
    for key in keys.status(server).await {
        let _ = writeln!(text, "              {}", key_line(&key, now_ms));
    }
    let _ = writeln!(text, "  back-off    {}", backoff_line(backoff, now_ms));
    text
}

fn place_lines(text: &mut String, place: &Place) {
    let addresses: Vec<_> = place.target.addresses.iter().map(ToString::to_string).collect();
    let _ = writeln!(text, "  connect to  {}", addresses.join(", "));
    let _ = writeln!(text, "  certificate for {}, Host: {}", place.target.tls_name, place.host);
}

async fn version(remote: &Remote, server: &ServerName) -> Result<String, PeerError> {
    #[derive(Deserialize)]
    struct Answer {
        server: Version,
    }
    #[derive(Deserialize)]
    struct Version {
        #[serde(default)]
        name: String,
        #[serde(default)]
        version: String,
    }
    let ask = Ask {
        method: Method::GET,
        path: "/_matrix/federation/v1/version".to_owned(),
        body: None,
        signed: false,
        urgency: Urgency::Always,
        timeout_ms: TIMEOUT_MS,
        answer_bytes_max: ANSWER_BYTES_MAX,
    };
    let answer = remote.send(server, ask).await?;
    let answer: Answer = serde_json::from_slice(&answer).map_err(|error| PeerError::Malformed(error.to_string()))?;
    Ok(format!("{} {}", short(&answer.server.name), short(&answer.server.version)))
}

fn key_line(key: &KeyStatus, now_ms: u64) -> String {
    let validity = match (key.is_old, key.valid_until_ms.checked_sub(now_ms)) {
        (true, _) => format!("no longer in use since {}", ago(now_ms, key.valid_until_ms)),
        (false, Some(left_ms)) => format!("valid for {}", duration(left_ms)),
        (false, None) => format!("expired {}", ago(now_ms, key.valid_until_ms)),
    };
    let source = if key.from_notary { ", from a notary" } else { "" };
    format!("{}: {validity}, heard {}{source}", short(&key.id), ago(now_ms, key.fetched_ms))
}

fn backoff_line(backoff: Option<Backoff>, now_ms: u64) -> String {
    let Some(Backoff { failures, failing_since_ms, retry_at_ms, .. }) = backoff else {
        return "none".to_owned();
    };
    let rest = match retry_at_ms.checked_sub(now_ms) {
        Some(rest_ms) if rest_ms > 0 => format!("left alone for {}", duration(rest_ms)),
        Some(_) | None => "tried again at the next occasion".to_owned(),
    };
    if failures == 0 {
        return format!("it asked for time; {rest}");
    }
    format!("{failures} failures in a row, the first {}; {rest}", ago(now_ms, failing_since_ms))
}

fn ago(now_ms: u64, then_ms: u64) -> String {
    match now_ms.saturating_sub(then_ms) {
        0..1_000 => "just now".to_owned(),
        ms => format!("{} ago", duration(ms)),
    }
}

/// In its two largest units.
fn duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds} s"),
        (0, 0, minutes) => format!("{minutes} min {} s", seconds % 60),
        (0, hours, minutes) => format!("{hours} h {minutes} min"),
        (days, hours, _) => format!("{days} d {hours} h"),
    }
}

/// Others' words, safe for a terminal.
fn short(words: &str) -> String {
    words.chars().filter(|character| !character.is_control()).take(WORDS_MAX).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use hearth_core::SigningKey;
    use hearth_ports::{HttpError, SeededEntropy, mem::MemEngine};
    use hearth_store::{Store, StoreSettings};
    use ruma::server_name;
    use serde_json::json;

    use super::*;
    use crate::{
        keys::{KeyRingSettings, OwnKeys},
        policy::ServerPolicy,
        testing::{NOW_MS, Net, clock},
    };

    async fn parts(net: &Arc<Net>) -> (Arc<Remote>, Arc<KeyRing>) {
        let own = server_name!("a.example").to_owned();
        let (key, clock) = (Arc::new(SigningKey::from_seed(&[1; 32], "k")), clock());
        let store = Store::open(MemEngine::new(), StoreSettings::default()).await.unwrap();
        let own_keys = Arc::new(OwnKeys::new(own.clone(), Arc::clone(&key), Vec::new(), clock.clone()));
        let entropy = Arc::new(SeededEntropy::new(1));
        let remote = Remote::new(key, ServerPolicy::open(own), net.clone(), net.clone(), clock.clone(), entropy);
        let keys = KeyRing::new(own_keys, Arc::clone(&remote), store, clock, KeyRingSettings::default());
        (remote, keys)
    }

    #[tokio::test]
    async fn an_operator_reads_the_whole_way() {
        let net = Net::new();
        let (remote, keys) = parts(&net).await;
        let (server, host) = (server_name!("b.example"), "m.b.example:443");
        net.name("b.example", &["192.0.2.1"]);
        net.name("m.b.example", &["192.0.2.2", "2001:db8::2"]);
        net.json("b.example", "/.well-known/", &json!({ "m.server": host }));
        let version = json!({ "server": { "name": "Some\u{1b}[31mthing", "version": "1.0" } });
        net.json(host, "/_matrix/federation/v1/version", &version);
        let key = SigningKey::from_seed(&[2; 32], "b1");
        let answer = json!({
            "server_name": server, "valid_until_ts": NOW_MS + 90_000_000, "old_verify_keys": {},
            "verify_keys": { key.id(): { "key": key.public_key_base64() } },
        });
        let answer = key.sign_json(server, answer.to_string().as_bytes()).unwrap();
        net.json(host, "/_matrix/key/", &serde_json::from_str(&answer).unwrap());
        assert_eq!(
            check(&remote, &keys, server, NOW_MS).await,
            "\
b.example
  looked up   /.well-known/matrix/server: m.b.example:443
  looked up   the name says the port
  looked up   addresses of m.b.example: 192.0.2.2, 2001:db8::2
  connect to  192.0.2.2:443, [2001:db8::2]:443
  certificate for m.b.example, Host: m.b.example:443
  version     Some[31mthing 1.0
  keys        fetched now
              ed25519:b1: valid for 1 d 1 h, heard just now
  back-off    none
"
        );
    }

    #[tokio::test]
    async fn also_if_it_leads_nowhere() {
        let net = Net::new();
        let (remote, keys) = parts(&net).await;
        net.name("b.example", &["192.0.2.1"]);
        net.fail("b.example:1", "/", HttpError::Unreachable("no route".to_owned()));
        let server = server_name!("b.example:1");
        check(&remote, &keys, server, NOW_MS).await;
        let text = check(&remote, &keys, server, NOW_MS + 100).await;
        assert!(text.contains("  version     none: b.example:1: not reached: no route\n"), "{text}");
        assert!(text.contains("  keys        not fetched: "), "{text}");
        assert!(text.contains("  back-off    1 failures in a row, the first just now; left alone for 0 s\n"), "{text}");
        net.fail("b.example:1", "/", HttpError::Denied("192.0.2.1 is in a denied range".to_owned()));
        let text = check(&remote, &keys, server, NOW_MS + 100).await;
        assert!(text.contains("(connecting is not allowed: 192.0.2.1 is in a denied range)\n"), "{text}");
        let own = check(&remote, &keys, server_name!("a.example"), NOW_MS).await;
        assert_eq!(own, "a.example\n  we don't talk to it: this is us\n");
    }

    #[test]
    fn durations_have_two_units() {
        let durations = [999, 61_000, 3_720_000, 90_000_000].map(duration);
        assert_eq!(durations, ["0 s", "1 min 1 s", "1 h 2 min", "1 d 1 h"]);
    }
}
