//! Signatures that users make of their devices, their own master key, and other users' master keys.
//! [`POST /keys/signatures/upload`](https://spec.matrix.org/v1.19/client-server-api/#post_matrixclientv3keyssignaturesupload).

use std::collections::BTreeMap;

use hearth_core::keys::is_signed_by;
use hearth_ports::Peers;
use hearth_store::{
    LogEntry, Table, UserNumber, Write,
    tables::users::{
        CrossSigningRow, DeviceListRow, IDENTITY_KEYS_BYTES_MAX, UserSignatureRow, cross_signing_key, device_key,
        own_view_key, user_signature_key,
    },
};
use ruma::{OwnedUserId, UserId};
use serde_json::{Map, Value};

use super::{WantedDevices, add_signature, is_same_signed, parse, public_key, remote, signatures_of};
use crate::{
    Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
    keys::UploadError,
};

/// Signed objects of one request. Clients send a few.
pub const SIGNED_OBJECTS_MAX: usize = 1_000;

/// How long another server has to give its user's master key, in milliseconds.
const REMOTE_TIMEOUT_MS: u64 = 10_000;

/// Why a signature was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SignatureRefusal {
    /// The object is not the one that is known under this id (`M_INVALID_PARAM`).
    #[error("the object is not the key that is known here")]
    OtherObject,
    /// No key of that id (`M_NOT_FOUND`).
    #[error("there is no such key")]
    NotFound,
    /// It is not signed by a key that may, or wrongly (`M_INVALID_SIGNATURE`).
    #[error("no valid signature by a key that may sign this")]
    Invalid,
    /// There would be more signatures than a key can have (`M_TOO_LARGE`).
    #[error("the key has too many signatures")]
    TooLarge,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<UploadError> for SignatureRefusal {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::TooLarge(_) => Self::TooLarge,
            UploadError::Fault(fault) => Self::Fault(fault),
            UploadError::NoDevice => Self::NotFound,
            UploadError::Malformed(_) | UploadError::Wrong(_) | UploadError::IdInUse => Self::OtherObject,
        }
    }
}

/// Signed objects: by user, then by device or public key.
type Signed = BTreeMap<OwnedUserId, BTreeMap<String, Map<String, Value>>>;

impl Users {
    /// Takes signatures that a user made; the answer is what was not taken, and why.
    pub async fn upload_signatures(
        &self,
        peers: &dyn Peers,
        signer: &UserId,
        signed: Signed,
    ) -> Result<BTreeMap<OwnedUserId, BTreeMap<String, SignatureRefusal>>, Fault> {
        let mut refused: BTreeMap<OwnedUserId, BTreeMap<String, SignatureRefusal>> = BTreeMap::new();
        let Some(user) = self.store.user_number(signer).await? else { return Ok(refused) };
        for (user_id, objects) in signed {
            let masters = if user_id == signer { None } else { self.master_key_of(peers, &user_id).await? };
            for (id, object) in objects {
                let taken = match user_id == signer {
                    true => self.take_own(user, signer, &id, &object).await,
                    false => self.take_of_other(user, signer, &user_id, &id, &object, masters.as_ref()).await,
                };
                if let Err(refusal) = taken {
                    refused.entry(user_id.clone()).or_default().insert(id, refusal);
                }
            }
        }
        Ok(refused)
    }

    /// A signature of one's own device or master key.
    async fn take_own(
        &self,
        user: UserNumber,
        signer: &UserId,
        id: &str,
        object: &Map<String, Value>,
    ) -> Result<(), SignatureRefusal> {
        for _ in 0..COMMIT_ATTEMPTS {
            let (cross_signing, bytes) = self.load_cross_signing(user).await?;
            let master = cross_signing.master.as_deref().map(|key| parse("master key", key)).transpose()?;
            let mut write = Write::new(user.partition());
            write.require(Table::Us, cross_signing_key(user), bytes);
            let (is_new, entry) = match master {
                Some(master) if public_key(&master) == Some(id) => {
                    let signed = self.sign_master(&mut write, user, signer, object, cross_signing, master);
                    (signed.await?, LogEntry::SigningKeys { user })
                }
                _ => {
                    let signed = self.sign_device(&mut write, user, signer, id, object, &cross_signing);
                    (signed.await?, LogEntry::Device { user, device: id.to_owned() })
                }
            };
            if !is_new {
                return Ok(());
            }
            let at = write.position();
            write.log(at, entry);
            if committed(self.store.commit(write).await)? {
                return Ok(());
            }
        }
        Err(Fault::contended().into())
    }

    /// One's own device, signed by the self-signing key. Says whether that is new.
    async fn sign_device(
        &self,
        write: &mut Write,
        user: UserNumber,
        signer: &UserId,
        device_id: &str,
        object: &Map<String, Value>,
        cross_signing: &CrossSigningRow,
    ) -> Result<bool, SignatureRefusal> {
        let (stored, bytes) = self.load_device_keys(user, device_id).await?;
        let stored = stored.ok_or(SignatureRefusal::NotFound)?;
        if !is_same_signed(&stored, object) {
            return Err(SignatureRefusal::OtherObject);
        }
        let self_signing =
            cross_signing.self_signing.as_deref().map(|key| parse("self-signing key", key)).transpose()?;
        let self_signing = self_signing.ok_or(SignatureRefusal::Invalid)?;
        let (key_id, signature) = signature_by(object, signer, public_key(&self_signing).unwrap_or_default())?;
        let mut signed = stored.clone();
        add_signature(&mut signed, signer.as_str(), &key_id, &signature);
        if signed == stored {
            return Ok(false);
        }
        // A device that ends meanwhile takes its keys with it.
        let device = self.load_device(user, device_id).await?.ok_or(SignatureRefusal::NotFound)?;
        write.require(Table::Us, device_key(user, device_id), Some(device.1));
        self.put_device_object(write, user, device_id, &signed, bytes)?;
        Ok(true)
    }

    /// One's own master key, signed by devices. Says whether that is new.
    async fn sign_master(
        &self,
        write: &mut Write,
        user: UserNumber,
        signer: &UserId,
        object: &Map<String, Value>,
        cross_signing: CrossSigningRow,
        master: Map<String, Value>,
    ) -> Result<bool, SignatureRefusal> {
        if !is_same_signed(&master, object) {
            return Err(SignatureRefusal::OtherObject);
        }
        let text = serde_json::to_string(object).expect("a map of values is JSON");
        let mut signed = master.clone();
        let mut is_signed = false;
        for (key_id, signature) in signatures_of(object, signer.as_str()) {
            let Some(device_id) = key_id.strip_prefix("ed25519:") else { continue };
            let (device, _) = self.load_device_keys(user, device_id).await?;
            let public = device.as_ref().and_then(|device| device.get("keys")?.get(key_id)?.as_str());
            if public.is_some_and(|public| is_signed_by(text.as_bytes(), signer.as_str(), key_id, public)) {
                add_signature(&mut signed, signer.as_str(), key_id, signature);
                is_signed = true;
            }
        }
        if !is_signed {
            return Err(SignatureRefusal::Invalid);
        }
        if signed == master {
            return Ok(false);
        }
        let master = serde_json::to_string(&signed).expect("a map of values is JSON");
        if master.len() > IDENTITY_KEYS_BYTES_MAX {
            return Err(SignatureRefusal::TooLarge);
        }
        let after = CrossSigningRow { master: Some(master), ..cross_signing };
        write.put(Table::Us, cross_signing_key(user), &after);
        Ok(true)
    }

    /// Another user's master key, signed by one's own user-signing key.
    async fn take_of_other(
        &self,
        user: UserNumber,
        signer: &UserId,
        signed_user: &UserId,
        id: &str,
        object: &Map<String, Value>,
        master: Option<&Map<String, Value>>,
    ) -> Result<(), SignatureRefusal> {
        let master = master.filter(|master| public_key(master) == Some(id)).ok_or(SignatureRefusal::NotFound)?;
        if !is_same_signed(master, object) {
            return Err(SignatureRefusal::OtherObject);
        }
        let (cross_signing, bytes) = self.load_cross_signing(user).await?;
        let key = cross_signing.user_signing.as_deref().map(|key| parse("user-signing key", key)).transpose()?;
        let key = key.ok_or(SignatureRefusal::Invalid)?;
        let (key_id, signature) = signature_by(object, signer, public_key(&key).unwrap_or_default())?;
        let mut write = Write::new(user.partition());
        write.require(Table::Us, cross_signing_key(user), bytes);
        let row = UserSignatureRow { signed: id.to_owned(), signer: key_id, signature };
        write.put(Table::Us, user_signature_key(user, signed_user.as_str()), &row);
        let at = write.position();
        // In the signed user's keys the signer sees it, and nobody else.
        write.put_at(Table::Us, own_view_key(user, signed_user.as_str()), &DeviceListRow::default(), &[at]);
        write.log(at, LogEntry::OwnKeys { user });
        if committed(self.store.commit(write).await)? { Ok(()) } else { Err(Fault::contended().into()) }
    }

    /// The master key of another user, here or elsewhere.
    async fn master_key_of(&self, peers: &dyn Peers, user_id: &UserId) -> Result<Option<Map<String, Value>>, Fault> {
        let wanted = WantedDevices::from([(user_id.to_owned(), Vec::new())]);
        let mut query = match self.is_local(user_id) {
            true => self.query_local_keys(None, wanted).await?,
            false => remote::query(peers, wanted, REMOTE_TIMEOUT_MS).await,
        };
        let key = query.master_keys.remove(user_id);
        Ok(key.and_then(|key| serde_json::from_str(key.get()).ok()))
    }
}

/// The signature in an object by this key of its user, if it is right, and the key's id.
fn signature_by(
    object: &Map<String, Value>,
    signer: &UserId,
    public: &str,
) -> Result<(String, String), SignatureRefusal> {
    let key_id = format!("ed25519:{public}");
    let text = serde_json::to_string(object).expect("a map of values is JSON");
    let signature = signatures_of(object, signer.as_str()).find(|(id, _)| *id == key_id);
    let (_, signature) = signature.ok_or(SignatureRefusal::Invalid)?;
    match is_signed_by(text.as_bytes(), signer.as_str(), &key_id, public) {
        true => Ok((key_id, signature.to_owned())),
        false => Err(SignatureRefusal::Invalid),
    }
}
