//! A user's cross-signing keys.
//! [`POST /keys/device_signing/upload`](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keysdevice_signingupload).

use bytes::Bytes;
use hearth_core::{PublicKey, keys::is_signed_by};
use hearth_store::{
    LogEntry, Table, UserNumber, Write,
    tables::users::{
        CrossSigningRow, DeviceListRow, IDENTITY_KEYS_BYTES_MAX, cross_signing_key, device_key, own_view_key,
    },
};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use super::{is_canonical, is_same_signed, parse, public_key};
use crate::{Fault, Users, fault::committed};

/// Keys that a user uploads; what is absent stays as it is, unless the master key changes.
#[derive(Clone, Debug, Default)]
pub struct CrossSigningUpload {
    /// The master key.
    pub master_key: Option<Map<String, Value>>,
    /// Signs the user's devices.
    pub self_signing_key: Option<Map<String, Value>>,
    /// Signs other users.
    pub user_signing_key: Option<Map<String, Value>>,
}

/// Why cross-signing keys were not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CrossSigningError {
    /// It has not the shape of such a key (`M_BAD_JSON`).
    #[error("{0}")]
    Malformed(String),
    /// It is another user's (`M_INVALID_PARAM`).
    #[error("{0} is of another user")]
    OtherUser(&'static str),
    /// There is no master key that could have signed (`M_MISSING_PARAM`).
    #[error("no master key is given or known")]
    NoMasterKey,
    /// The master key did not sign it (`M_INVALID_SIGNATURE`).
    #[error("{0} is not signed by the master key")]
    NotSigned(&'static str),
    /// A device of the user has the key's id (403 `M_FORBIDDEN`).
    #[error("key id in use")]
    IdInUse,
    /// There is no such account.
    #[error("there is no such account")]
    NoAccount,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// An upload that was checked against what is there. Nothing is written before [`Users::commit_cross_signing`].
#[derive(Debug)]
pub struct CrossSigningPlan {
    user: UserNumber,
    user_id: OwnedUserId,
    before: Option<Bytes>,
    after: CrossSigningRow,
    is_new: bool,
    /// Others see a difference, too.
    is_public: bool,
    replaces: bool,
}

impl CrossSigningPlan {
    /// Whether the user has to prove anew who they are: "there is an existing master signing key", and the request
    /// contains new keys.
    pub fn needs_authentication(&self) -> bool {
        self.replaces && self.is_new
    }
}

/// One of the three kinds of keys.
#[derive(Clone, Copy)]
struct Kind {
    field: &'static str,
    usage: &'static str,
}

const MASTER: Kind = Kind { field: "master_key", usage: "master" };
const SELF_SIGNING: Kind = Kind { field: "self_signing_key", usage: "self_signing" };
const USER_SIGNING: Kind = Kind { field: "user_signing_key", usage: "user_signing" };

impl Users {
    /// Checks cross-signing keys that a user uploads. If the plan needs it, the caller authenticates the user, then commits.
    pub async fn plan_cross_signing(
        &self,
        user_id: &UserId,
        upload: CrossSigningUpload,
    ) -> Result<CrossSigningPlan, CrossSigningError> {
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(CrossSigningError::NoAccount)?;
        let (stored, before) = self.load_cross_signing(user).await?;
        let old_master = stored.master.as_deref().map(|key| parse("master key", key)).transpose()?;
        let given = [(MASTER, &upload.master_key), (SELF_SIGNING, &upload.self_signing_key)];
        for (kind, key) in given.into_iter().chain([(USER_SIGNING, &upload.user_signing_key)]) {
            let Some(key) = key else { continue };
            let id = check_shape(kind, user_id, key)?;
            let device = self.store.get_bytes(Table::Us, &device_key(user, id)).await.map_err(Fault::from)?;
            if device.is_some() {
                return Err(CrossSigningError::IdInUse);
            }
        }
        let replaces = old_master.is_some();
        let keeps_master = match (&upload.master_key, &old_master) {
            (Some(new), Some(old)) => is_same_signed(new, old),
            (None, _) => true,
            (Some(_), None) => false,
        };
        let has_others = upload.self_signing_key.is_some() || upload.user_signing_key.is_some();
        let master = upload.master_key.as_ref().or(old_master.as_ref());
        if has_others && master.is_none() {
            return Err(CrossSigningError::NoMasterKey);
        }
        // Whom an old master key has signed, a new one has not.
        let mut after = if keeps_master { stored.clone() } else { CrossSigningRow::default() };
        if let (Some(new), false) = (&upload.master_key, keeps_master) {
            after.master = Some(text(new));
        }
        for (kind, key, place) in [
            (SELF_SIGNING, &upload.self_signing_key, &mut after.self_signing),
            (USER_SIGNING, &upload.user_signing_key, &mut after.user_signing),
        ] {
            let (Some(key), Some(master)) = (key, master) else { continue };
            check_signed(kind, user_id, key, master)?;
            let known = place.as_deref().map(|known| parse(kind.field, known)).transpose()?;
            if !known.is_some_and(|known| is_same_signed(&known, key)) {
                *place = Some(text(key));
            }
        }
        let is_new = after != stored;
        let is_public = after.master != stored.master || after.self_signing != stored.self_signing;
        Ok(CrossSigningPlan { user, user_id: user_id.to_owned(), before, after, is_new, is_public, replaces })
    }

    /// Writes what was planned. A change that came in between is [`Fault::Unavailable`]: it is to be planned again.
    pub async fn commit_cross_signing(&self, plan: CrossSigningPlan) -> Result<(), Fault> {
        let CrossSigningPlan { user, user_id, before, after, is_new, is_public, .. } = plan;
        if !is_new {
            return Ok(());
        }
        let mut write = Write::new(user.partition());
        write.require(Table::Us, cross_signing_key(user), before);
        write.put(Table::Us, cross_signing_key(user), &after);
        let at = write.position();
        if is_public {
            write.log(at, LogEntry::SigningKeys { user });
        } else {
            write.put_at(Table::Us, own_view_key(user, user_id.as_str()), &DeviceListRow::default(), &[at]);
            write.log(at, LogEntry::OwnKeys { user });
        }
        if committed(self.store.commit(write).await)? { Ok(()) } else { Err(Fault::contended()) }
    }
}

/// The fields that a key must have; returns its public key.
fn check_shape<'k>(kind: Kind, user_id: &UserId, key: &'k Map<String, Value>) -> Result<&'k str, CrossSigningError> {
    let malformed = |what: &str| CrossSigningError::Malformed(format!("{}: {what}", kind.field));
    let owner = key.get("user_id").and_then(Value::as_str).ok_or_else(|| malformed("user_id is missing"))?;
    if owner != user_id {
        return Err(CrossSigningError::OtherUser(kind.field));
    }
    let usage = key.get("usage").and_then(Value::as_array).ok_or_else(|| malformed("usage is missing"))?;
    if !usage.iter().any(|usage| usage == kind.usage) {
        return Err(malformed("it is for another use"));
    }
    let keys = key.get("keys").and_then(Value::as_object).ok_or_else(|| malformed("keys are missing"))?;
    let mut keys = keys.iter();
    let (Some((id, public)), None) = (keys.next(), keys.next()) else {
        return Err(malformed("it must have exactly one key"));
    };
    let public = public.as_str().ok_or_else(|| malformed("its key must be a string"))?;
    if id.strip_prefix("ed25519:") != Some(public) {
        return Err(malformed("its key must be named ed25519:, followed by itself"));
    }
    PublicKey::from_base64(public, 0).ok_or_else(|| malformed("its key is no ed25519 key"))?;
    let json = text(key);
    if json.len() > IDENTITY_KEYS_BYTES_MAX {
        return Err(malformed("it is too large"));
    }
    if !is_canonical(&json) {
        return Err(malformed("its numbers must be integers within ±(2^53 − 1)"));
    }
    Ok(public)
}

fn check_signed(
    kind: Kind,
    user_id: &UserId,
    key: &Map<String, Value>,
    master: &Map<String, Value>,
) -> Result<(), CrossSigningError> {
    let public = public_key(master).unwrap_or_default();
    let key_id = format!("ed25519:{public}");
    match is_signed_by(text(key).as_bytes(), user_id.as_str(), &key_id, public) {
        true => Ok(()),
        false => Err(CrossSigningError::NotSigned(kind.field)),
    }
}

fn text(key: &Map<String, Value>) -> String {
    serde_json::to_string(key).expect("a map of values is JSON")
}
