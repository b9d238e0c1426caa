//! Stored filters. What a definition means is decided by who uses it.

use std::sync::Arc;

use hearth_store::{
    Table, Write,
    tables::users::{FilterRow, filter_key},
};
use ruma::UserId;

use crate::{Fault, Users};

/// The largest definition, in bytes.
pub const FILTER_BYTES_MAX: usize = 64 * 1024;

/// The longest id that can be one of ours, in bytes.
const ID_BYTES_MAX: usize = 32;

/// Why a filter was not stored.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FilterError {
    /// The account is not known here.
    #[error("unknown account")]
    NotFound,
    /// More than [`FILTER_BYTES_MAX`].
    #[error("the filter is larger than {FILTER_BYTES_MAX} bytes")]
    TooLarge,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl Users {
    /// Stores a definition, JSON that the caller has checked, and gives its id. The same definition has the same id, so
    /// that a client that stores its filter at every start does not fill the store.
    pub async fn put_filter(&self, user_id: &UserId, definition: &str) -> Result<String, FilterError> {
        if definition.len() > FILTER_BYTES_MAX {
            return Err(FilterError::TooLarge);
        }
        let user = self.store.user_number(user_id).await.map_err(Fault::from)?.ok_or(FilterError::NotFound)?;
        let id = blake3::hash(definition.as_bytes()).to_hex().as_str().chars().take(16).collect::<String>();
        let key = filter_key(user, &id);
        if self.store.get_bytes(Table::Us, &key).await.map_err(Fault::from)?.is_none() {
            let mut write = Write::new(user.partition());
            write.put(Table::Us, key, &FilterRow { definition: definition.to_owned() });
            self.store.commit(write).await.map_err(Fault::from)?;
        }
        Ok(id)
    }

    /// A stored definition. It never changes under its id.
    pub async fn filter(&self, user_id: &UserId, id: &str) -> Result<Option<Arc<str>>, Fault> {
        if id.len() > ID_BYTES_MAX {
            return Ok(None);
        }
        let Some(user) = self.store.user_number(user_id).await? else { return Ok(None) };
        let row = self.store.get::<FilterRow>(Table::Us, &filter_key(user, id)).await?;
        Ok(row.map(|row| row.definition.into()))
    }
}
