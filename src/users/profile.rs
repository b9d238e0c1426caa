//! Profiles: what everybody may know of a user. (Client-server API, "Profiles".)

use hearth_store::{
    LogEntry, Table, Write,
    tables::users::{ProfileRow, profile_key},
};
use ruma::UserId;
use serde_json::{Map, Value};

use crate::{
    AccountError, Fault, Users,
    fault::{COMMIT_ATTEMPTS, committed},
};

/// "The total profile MUST be under 64 KiB."
pub const PROFILE_BYTES_MAX: usize = 64 * 1024;

/// "The maximum allowed key length of 255 bytes."
const KEY_BYTES_MAX: usize = 255;

/// The longest display name and avatar address, in bytes: both go into member events of every room, which may be 65,536
/// bytes altogether.
const NAME_BYTES_MAX: usize = 1_024;

/// Why a profile was not read or changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ProfileError {
    /// No such account or field.
    #[error("no such profile field")]
    NotFound,
    /// The field's name is longer than 255 bytes.
    #[error("the field's name is too long")]
    KeyTooLarge,
    /// The field's name does not follow the grammar.
    #[error("the field's name is not valid")]
    BadKey,
    /// The value is not what the field must have.
    #[error("the field's value is not valid")]
    BadValue,
    /// The profile would be too large.
    #[error("the profile is too large")]
    TooLarge,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Users {
    /// The whole profile of a local account that exists.
    pub async fn profile(&self, user_id: &UserId) -> Result<Map<String, Value>, ProfileError> {
        let loaded = match self.load_active(user_id).await {
            Ok(loaded) => loaded,
            Err(AccountError::Fault(fault)) => return Err(fault.into()),
            Err(AccountError::NotFound | AccountError::Password(_)) => return Err(ProfileError::NotFound),
        };
        let row = self.store.get::<ProfileRow>(Table::Us, &profile_key(loaded.user)).await.map_err(Fault::from)?;
        let fields = row.unwrap_or_default().fields.into_iter();
        Ok(fields.map(|(name, value)| (name, serde_json::from_str(&value).unwrap_or_default())).collect())
    }

    /// Display name and avatar, as they stand in member events.
    pub async fn member_profile(&self, user_id: &UserId) -> Result<(Option<String>, Option<String>), Fault> {
        let profile = match self.profile(user_id).await {
            Ok(profile) => profile,
            Err(ProfileError::Fault(fault)) => return Err(fault),
            Err(_) => return Ok((None, None)),
        };
        let text = |name: &str| profile.get(name).and_then(Value::as_str).map(str::to_owned);
        Ok((text("displayname"), text("avatar_url")))
    }

    /// One field.
    pub async fn profile_field(&self, user_id: &UserId, name: &str) -> Result<Value, ProfileError> {
        check_key(name)?;
        self.profile(user_id).await?.remove(name).ok_or(ProfileError::NotFound)
    }

    /// Sets a field, or deletes it with `None`. Gives whether that changed anything.
    pub async fn set_profile_field(
        &self,
        user_id: &UserId,
        name: &str,
        value: Option<&Value>,
    ) -> Result<bool, ProfileError> {
        check_key(name)?;
        if let Some(value) = value {
            check_value(name, value)?;
        }
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(ProfileError::NotFound)?;
        for _ in 0..COMMIT_ATTEMPTS {
            let account = self.load_account_of(user).await?.filter(|loaded| !loaded.row.deactivated);
            let account = account.ok_or(ProfileError::NotFound)?;
            let bytes = self.store.get_bytes(Table::Us, &profile_key(user)).await.map_err(Fault::from)?;
            let row: Option<ProfileRow> =
                bytes.as_ref().map(|bytes| hearth_store::decode(bytes)).transpose().map_err(Fault::from)?;
            let mut row = row.unwrap_or_default();
            let changed = set(&mut row, name, value);
            if !changed {
                return Ok(false);
            }
            let size: usize = row.fields.iter().map(|(name, value)| name.len() + value.len() + 6).sum();
            if size >= PROFILE_BYTES_MAX {
                return Err(ProfileError::TooLarge);
            }
            let mut write = Write::new(user.partition());
            // A deactivation takes the profile away, so none may be written after it.
            account.require(&mut write);
            write.require(Table::Us, profile_key(user), bytes);
            write.put(Table::Us, profile_key(user), &row);
            let at = write.position();
            write.log(at, LogEntry::Account { user });
            if committed(self.store.commit(write).await)? {
                return Ok(true);
            }
        }
        Err(Fault::contended().into())
    }
}

fn set(row: &mut ProfileRow, name: &str, value: Option<&Value>) -> bool {
    let at = row.fields.binary_search_by(|(known, _)| known.as_str().cmp(name));
    let text = value.map(ToString::to_string);
    match (at, text) {
        (Ok(at), Some(text)) => row.fields.get_mut(at).is_some_and(|field| {
            let changed = field.1 != text;
            field.1 = text;
            changed
        }),
        (Ok(at), None) => {
            row.fields.remove(at);
            true
        }
        (Err(at), Some(text)) => {
            row.fields.insert(at, (name.to_owned(), text));
            true
        }
        (Err(_), None) => false,
    }
}

/// `avatar_url`, `displayname`, `m.tz`, or the common namespaced identifier grammar: a lower-case letter, then lower-case
/// letters, digits, `-`, `_` and `.`, with at least one dot.
fn check_key(name: &str) -> Result<(), ProfileError> {
    if name.len() > KEY_BYTES_MAX {
        return Err(ProfileError::KeyTooLarge);
    }
    if matches!(name, "displayname" | "avatar_url") {
        return Ok(());
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    let starts = name.bytes().next().is_some_and(|byte| byte.is_ascii_lowercase());
    if starts && name.bytes().all(allowed) && name.contains('.') { Ok(()) } else { Err(ProfileError::BadKey) }
}

fn check_value(name: &str, value: &Value) -> Result<(), ProfileError> {
    match name {
        "displayname" | "avatar_url" => {
            let text = value.as_str().ok_or(ProfileError::BadValue)?;
            if text.len() > NAME_BYTES_MAX {
                return Err(ProfileError::TooLarge);
            }
            // What an address must look like is not looked at: clients in the wild set others, and readers must cope.
            Ok(())
        }
        "m.tz" if !value.is_string() => Err(ProfileError::BadValue),
        _ => Ok(()),
    }
}
