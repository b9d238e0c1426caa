//! Changing the server's signing key: what the old ones signed stays verifiable.
//! [Publishing keys](https://spec.matrix.org/v1.19/server-server-api/#publishing-keys).
//!
//! Old public keys lie beside the key in use, one a line: `ed25519 VERSION PUBLIC_KEY EXPIRED_TS`, or `-` in place of the
//! time while a running server still signs with it.

use std::path::PathBuf;

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hearth_core::{PublicKey, SigningKey};
use hearth_federation::keys::OldKey;
use hearth_ports::Entropy;

use crate::{
    Failure,
    data_dir::{DataDir, new_signing_key, read, write_new},
};

/// Old keys that are kept: as many as servers take of one server, with the one in use.
const OLD_KEYS_MAX: usize = 63;

/// A line of the file.
struct Line {
    version: String,
    public: [u8; 32],
    /// In milliseconds since the Unix epoch; `None`: it is in use until the server starts anew.
    expired_ms: Option<u64>,
}

impl Line {
    fn parse(line: &str) -> Option<Self> {
        let mut parts = line.split_whitespace();
        let ("ed25519", version, public, expired) = (parts.next()?, parts.next()?, parts.next()?, parts.next()?) else {
            return None;
        };
        let public = PublicKey::from_base64(public, 0)?.bytes;
        let expired_ms = if expired == "-" { None } else { Some(expired.parse().ok()?) };
        parts.next().is_none().then(|| Self { version: version.to_owned(), public, expired_ms })
    }

    fn write(&self) -> String {
        let expired = self.expired_ms.map_or_else(|| "-".to_owned(), |ms| ms.to_string());
        format!("ed25519 {} {} {expired}\n", self.version, STANDARD_NO_PAD.encode(self.public))
    }
}

impl DataDir {
    /// The file of old keys.
    pub(crate) fn old_signing_keys(&self) -> PathBuf {
        self.signing_key().with_extension("key.old")
    }

    /// Puts a new signing key in the place of the present one, which is kept among the old ones. `stopped_ms`: when the
    /// present one was last used, in milliseconds since the Unix epoch; `None`: a running server goes on signing with it.
    /// Returns the ids of both. A crash on the way leaves the present key in use.
    pub(crate) fn rotate_signing_key(
        &self,
        entropy: &(dyn Entropy + 'static),
        stopped_ms: Option<u64>,
    ) -> Result<(String, String), Failure> {
        let present = self.load_signing_key(entropy)?;
        let mut lines = self.read_old_keys()?;
        lines.retain(|line| line.version != present.version());
        if lines.len() >= OLD_KEYS_MAX {
            let file = self.old_signing_keys();
            return Err(Failure::new(format!(
                "there are too many old keys: remove the oldest from {}",
                file.display()
            )));
        }
        let version = present.version().to_owned();
        lines.push(Line { version, public: present.public_key(), expired_ms: stopped_ms });
        self.write_old_keys(&lines)?;
        let (new, text) = new_signing_key(entropy);
        write_new(&self.signing_key(), text.as_bytes())?;
        Ok((present.id().to_owned(), new.id().to_owned()))
    }

    /// The keys that the server signed with before `present`. Those that were in use until now have ended at `now_ms`, in
    /// milliseconds since the Unix epoch: no other server may be running.
    pub(crate) fn load_old_keys(&self, present: &SigningKey, now_ms: u64) -> Result<Vec<OldKey>, Failure> {
        let mut lines = self.read_old_keys()?;
        let is_old = |line: &Line| line.version != present.version();
        if lines.iter().any(|line| is_old(line) && line.expired_ms.is_none()) {
            for line in lines.iter_mut().filter(|line| is_old(line)) {
                line.expired_ms.get_or_insert(now_ms);
            }
            self.write_old_keys(&lines)?;
        }
        let old = lines.into_iter().filter(is_old).map(|line| OldKey {
            id: format!("ed25519:{}", line.version),
            bytes: line.public,
            expired_ms: line.expired_ms.unwrap_or(now_ms),
        });
        Ok(old.collect())
    }

    fn read_old_keys(&self) -> Result<Vec<Line>, Failure> {
        let file = self.old_signing_keys();
        let Some(text) = read(&file)? else { return Ok(Vec::new()) };
        let lines: Option<Vec<Line>> = text.lines().filter(|line| !line.trim().is_empty()).map(Line::parse).collect();
        lines.ok_or_else(|| {
            Failure::new(format!("{} is no list of old signing keys: restore it from a backup", file.display()))
        })
    }

    fn write_old_keys(&self, lines: &[Line]) -> Result<(), Failure> {
        let text: String = lines.iter().map(Line::write).collect();
        write_new(&self.old_signing_keys(), text.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc};

    use hearth_core::{Draft, Event, PublicKeys, RawEvent, References, RoomVersion, build};
    use hearth_federation::keys::OwnKeys;
    use hearth_ports::{ManualClock, SeededEntropy};
    use ruma::{OwnedServerName, room_id, server_name, user_id};

    use super::*;

    const NOW_MS: u64 = 1_700_000_000_000;

    fn message(key: &SigningKey, at_ms: u64) -> Event {
        let content = serde_json::json!({ "body": "hello" });
        let draft = Draft::message("m.room.message", user_id!("@a:a.test").to_owned(), &content, at_ms).unwrap();
        let room = Some(room_id!("!r:a.test"));
        build(&draft, &References::default(), room, RoomVersion::V10, key, server_name!("a.test"), None).unwrap()
    }

    /// Whether others who ask this server for its keys believe an event.
    fn is_believed(data: &DataDir, event: &Event) -> bool {
        let key = data.load_signing_key(&SeededEntropy::new(9)).unwrap();
        let old = data.load_old_keys(&key, NOW_MS + 1_000).unwrap();
        let server: OwnedServerName = server_name!("a.test").to_owned();
        let own = OwnKeys::new(server.clone(), Arc::new(key), old, Arc::new(ManualClock::at_ms(NOW_MS)));
        let keys = PublicKeys([(server, own.public())].into_iter().collect());
        RawEvent::parse(RoomVersion::V10, event.json()).unwrap().check_hash().verify(&keys).is_ok()
    }

    #[test]
    fn what_old_keys_signed_in_their_time_stays_believed() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path());
        let entropy = SeededEntropy::new(1);
        let first = data.load_signing_key(&entropy).unwrap();
        let early = message(&first, NOW_MS - 1);
        let (old_id, new_id) = data.rotate_signing_key(&entropy, Some(NOW_MS)).unwrap();
        let second = data.load_signing_key(&entropy).unwrap();
        assert_eq!((old_id.as_str(), new_id.as_str()), (first.id(), second.id()));
        assert_ne!(first.public_key(), second.public_key());
        assert!(is_believed(&data, &early) && is_believed(&data, &message(&second, NOW_MS + 1)));
        assert!(!is_believed(&data, &message(&first, NOW_MS + 1)), "whoever has the old key signs nothing new with it");
        data.rotate_signing_key(&entropy, Some(NOW_MS + 10)).unwrap();
        assert!(is_believed(&data, &early) && is_believed(&data, &message(&second, NOW_MS + 9)));
    }

    #[test]
    fn a_running_server_uses_its_key_until_it_starts_anew() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path());
        let entropy = SeededEntropy::new(1);
        let first = data.load_signing_key(&entropy).unwrap();
        data.rotate_signing_key(&entropy, None).unwrap();
        let second = data.load_signing_key(&entropy).unwrap();
        let old = data.load_old_keys(&second, NOW_MS).unwrap();
        assert_eq!((old.len(), old[0].id.as_str(), old[0].expired_ms), (1, first.id(), NOW_MS));
        assert_eq!(data.load_old_keys(&second, NOW_MS + 5).unwrap(), old, "that start counts, not the next");
        // A crash before the new key was written: the present key is no old one.
        data.rotate_signing_key(&entropy, None).unwrap();
        fs::write(data.signing_key(), format!("ed25519 {} {}\n", second.version(), seed_of(folder.path()))).unwrap();
        let present = SigningKey::from_seed(&[0; 32], second.version());
        assert_eq!(data.load_old_keys(&present, NOW_MS + 9).unwrap(), old);
    }

    fn seed_of(folder: &Path) -> String {
        let text = fs::read_to_string(folder.join("signing.key")).unwrap();
        text.split_whitespace().nth(2).unwrap().to_owned()
    }

    #[test]
    fn a_broken_list_is_not_ignored() {
        let folder = tempfile::tempdir().unwrap();
        let data = DataDir::new(folder.path());
        let key = data.load_signing_key(&SeededEntropy::new(1)).unwrap();
        for text in ["ed25519 a", "rsa a AAAA 1", "ed25519 a AAAA 1", "nonsense"] {
            fs::write(data.old_signing_keys(), text).unwrap();
            let error = data.load_old_keys(&key, NOW_MS).unwrap_err();
            assert!(error.to_string().contains("no list of old signing keys"), "{text}: {error}");
            data.rotate_signing_key(&SeededEntropy::new(1), None).unwrap_err();
        }
    }
}
