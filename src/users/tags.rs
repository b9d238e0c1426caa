//! Room tags, kept as account data `m.tag`. (Module "Room Tagging".)

use ruma::{RoomId, UserId};
use serde_json::{Map, Value, json};

use crate::{AccountDataError, Fault, Users};

/// "Tag names MUST NOT exceed 255 bytes."
const TAG_BYTES_MAX: usize = 255;

/// Where tags are kept.
const KIND: &str = "m.tag";

/// Why tags were not changed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum TagError {
    /// The account or the room is not known here.
    #[error("unknown account or room")]
    NotFound,
    /// The name is longer than 255 bytes, or all tags together are too large.
    #[error("the tag is too large")]
    TooLarge,
    /// Ours.
    #[error(transparent)]
    Fault(#[from] Fault),
}

impl From<AccountDataError> for TagError {
    fn from(error: AccountDataError) -> Self {
        match error {
            AccountDataError::NotFound => Self::NotFound,
            AccountDataError::TooLarge => Self::TooLarge,
            AccountDataError::Fault(fault) => Self::Fault(fault),
        }
    }
}

impl Users {
    /// A user's tags of a room.
    pub async fn tags(&self, user_id: &UserId, room_id: &RoomId) -> Result<Map<String, Value>, Fault> {
        Ok(read(self.account_data(user_id, Some(room_id), KIND).await?))
    }

    /// Adds a tag or changes its content.
    pub async fn put_tag(
        &self,
        user_id: &UserId,
        room_id: &RoomId,
        tag: &str,
        content: &Value,
    ) -> Result<(), TagError> {
        if tag.len() > TAG_BYTES_MAX {
            return Err(TagError::TooLarge);
        }
        self.change_account_data(user_id, Some(room_id), KIND, |old| {
            let mut tags = read(old);
            tags.insert(tag.to_owned(), content.clone());
            Ok(Some(written(tags)))
        })
        .await
    }

    /// Removes a tag, if it is there.
    pub async fn delete_tag(&self, user_id: &UserId, room_id: &RoomId, tag: &str) -> Result<(), TagError> {
        self.change_account_data(user_id, Some(room_id), KIND, |old| {
            let mut tags = read(old);
            Ok(tags.remove(tag).map(|_| written(tags)))
        })
        .await
    }
}

/// Tags out of the content, which a client may have written in any shape.
fn read(content: Option<String>) -> Map<String, Value> {
    let content: Value = content.and_then(|content| serde_json::from_str(&content).ok()).unwrap_or_default();
    content.get("tags").and_then(Value::as_object).cloned().unwrap_or_default()
}

fn written(tags: Map<String, Value>) -> String {
    json!({ "tags": tags }).to_string()
}
