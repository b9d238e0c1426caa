//! What is queued for a server that does not come: rows that say nothing any more because a newer one says more are dropped,
//! so that their number is bounded by what there is to know. Messages to devices are never dropped: each is a thing of its
//! own.

use std::collections::HashMap;

use hearth_ports::Key;
use hearth_store::{LoadError, tables::QueuedRow};
use serde::Deserialize;

use super::{Destination, Outbound, rows};

/// Rows that are stored for a destination before they are looked through, and the fewest between two looks.
const ROWS_BETWEEN: usize = 1_000;

/// Rows that are deleted together.
const DELETED_AT_ONCE: usize = 1_000;

/// Counts rows until they are to be looked through: after as many as were left the last time, so that each row is looked
/// at a few times, however many there are.
#[derive(Debug)]
pub(super) struct Unswept {
    left: usize,
}

impl Default for Unswept {
    fn default() -> Self {
        Self::after(0)
    }
}

impl Unswept {
    /// So many rows are there now.
    pub(super) fn after(rows: usize) -> Self {
        Self { left: rows.max(ROWS_BETWEEN) }
    }

    /// One more. Whether it is time.
    pub(super) fn stored(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }
}

impl Outbound {
    /// Drops what a newer row supersedes.
    pub(super) async fn drop_superseded(&self, destination: &Destination) {
        let left = match self.sweep(destination).await {
            Ok(left) => left,
            Err(error) => {
                tracing::warn!(server = %destination.name, %error, "what is queued for a server was not looked through");
                0
            }
        };
        destination.queue.lock().rows_swept(left);
    }

    /// How many rows are left.
    async fn sweep(&self, destination: &Destination) -> Result<usize, LoadError> {
        let (store, server) = (&self.parts.store, &destination.name);
        let mut newest: HashMap<Subject, Key> = HashMap::new();
        let (mut superseded, mut seen) = (Vec::new(), 0);
        let mut behind = None;
        loop {
            let rows = rows::queued_behind(store, server, behind.as_ref()).await?;
            let Some((last, _)) = rows.last() else { break };
            behind = Some(last.clone());
            seen += rows.len();
            for (key, row) in rows {
                if let Some(subject) = Subject::of(&row) {
                    superseded.extend(newest.insert(subject, key));
                }
            }
        }
        for keys in superseded.chunks(DELETED_AT_ONCE) {
            rows::delete_queued(store, server, keys.to_vec()).await.map_err(super::as_load_error)?;
        }
        if !superseded.is_empty() {
            tracing::debug!(%server, count = superseded.len(), "queued news was dropped for newer news");
        }
        Ok(seen - superseded.len())
    }
}

/// What an EDU is about that holds only until there is a newer one about the same.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Subject {
    /// A user's devices. Each update names those before it; a server that "receives an EDU which refers to a `prev_id` it
    /// does not recognise" asks for the whole list, and so learns what the dropped ones said.
    /// [Device management](https://spec.matrix.org/v1.19/server-server-api/#device-management)
    Devices(String),
    /// A user's cross-signing keys, and which of them an update names.
    SigningKeys(String, [bool; 2]),
}

impl Subject {
    /// `None`: the row stands for itself.
    fn of(row: &QueuedRow) -> Option<Self> {
        #[derive(Deserialize)]
        struct Edu {
            edu_type: String,
            content: Content,
        }
        #[derive(Deserialize)]
        struct Content {
            user_id: String,
            master_key: Option<serde::de::IgnoredAny>,
            self_signing_key: Option<serde::de::IgnoredAny>,
        }
        let QueuedRow::Edu { json } = row else { return None };
        let Edu { edu_type, content } = serde_json::from_str(json).ok()?;
        match &*edu_type {
            "m.device_list_update" => Some(Self::Devices(content.user_id)),
            // One that has fewer keys does not take the place of one that has more.
            "m.signing_key_update" => {
                let keys = [content.master_key.is_some(), content.self_signing_key.is_some()];
                Some(Self::SigningKeys(content.user_id, keys))
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn subject(kind: &str, content: Value) -> Option<Subject> {
        Subject::of(&QueuedRow::Edu { json: json!({ "edu_type": kind, "content": content }).to_string() })
    }

    #[test]
    fn only_what_a_newer_one_says_too_has_a_subject() {
        let user = "@a:x";
        let devices = |device: &str| subject("m.device_list_update", json!({ "user_id": user, "device_id": device }));
        assert_eq!(devices("A"), devices("B"), "a gap makes the server ask for all of them");
        let keys = |content: Value| subject("m.signing_key_update", content);
        let master = json!({ "user_id": user, "master_key": { "keys": {} } });
        let both = json!({ "user_id": user, "master_key": { "keys": {} }, "self_signing_key": { "keys": {} } });
        assert_ne!(keys(master.clone()), keys(both));
        assert!(keys(master).is_some());
        assert_eq!(subject("m.direct_to_device", json!({ "user_id": user, "sender": user })), None);
        assert_eq!(subject("m.device_list_update", json!({})), None);
    }

    #[test]
    fn rows_are_looked_through_the_more_seldom_the_more_there_are() {
        let mut unswept = Unswept::default();
        assert_eq!((1..=5_000).position(|_| unswept.stored()), Some(ROWS_BETWEEN - 1));
        let mut unswept = Unswept::after(3_000);
        assert_eq!((1..=5_000).position(|_| unswept.stored()), Some(2_999));
    }
}
