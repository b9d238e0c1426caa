//! Events of other servers as those servers make them: hashed and signed. One key is that of all servers but ours.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::LazyLock,
};

use base64::{Engine as _, engine::general_purpose::STANDARD_NO_PAD};
use hearth_core::{PublicKey, PublicKeys, RawEvent, RoomVersion, SigningKey, redact};
use ruma::{OwnedServerName, ServerName};
use sha2::{Digest as _, Sha256};

use crate::{Fields, object_without, raw};

/// The name of our server.
pub const US: &str = "hearth.test";

/// The key of every server but ours.
pub static KEY: LazyLock<SigningKey> = LazyLock::new(|| SigningKey::from_seed(&[9; 32], "far"));

/// What [`KEY`] is checked by, for these servers.
pub fn keys_of(servers: impl IntoIterator<Item = OwnedServerName>) -> PublicKeys {
    let mut keys = PublicKeys::default();
    for server in servers {
        let key = PublicKey { bytes: KEY.public_key(), valid_until_ms: u64::MAX };
        keys.insert(server, KEY.id().to_owned(), key);
    }
    keys
}

/// An event with all that makes it one.
pub struct Signed {
    /// The event, as text.
    pub text: String,
    /// Who had to sign it, us included: in our name nobody signed.
    pub signers: BTreeSet<OwnedServerName>,
}

/// Hashes and signs the object in the name of all servers that have to sign it, but ours; `None`: it is no event.
pub fn sign(version: RoomVersion, fields: &Fields) -> Option<Signed> {
    let mut fields: Fields = fields.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
    let hashed = object_without(&fields, &["hashes", "signatures", "unsigned"])?;
    let hash = STANDARD_NO_PAD.encode(Sha256::digest(hashed.as_bytes()));
    fields.insert("hashes".to_owned(), raw(&BTreeMap::from([("sha256", hash)])));
    fields.insert("signatures".to_owned(), raw(&BTreeMap::<String, String>::new()));
    let event = RawEvent::parse(version, object_without(&fields, &[])?.as_bytes()).ok()?;
    let redacted: Fields = serde_json::from_slice(redact(event.unchecked()).json()).ok()?;
    let signature = KEY.sign_bytes(object_without(&redacted, &["signatures", "unsigned"])?.as_bytes());
    let signers = event.check_hash().signers();
    let by_key = BTreeMap::from([(KEY.id(), signature)]);
    let signatures: BTreeMap<&ServerName, _> =
        signers.iter().filter(|server| *server != US).map(|server| (&**server, &by_key)).collect();
    fields.insert("signatures".to_owned(), raw(&signatures));
    Some(Signed { text: object_without(&fields, &[])?, signers })
}
