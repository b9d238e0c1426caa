//! What a device has left of the keys that others claim.
//! [Extensions to /sync](https://spec.matrix.org/v1.19/client-server-api/#e2e-extensions-to-sync).

use hearth_store::UserNumber;
use hearth_users::{Fault, Users, keys::KeyCounts};
use hearth_view::event_json::push_string;

use crate::{Reader, json};

/// Appends what is left, as it is in every answer, also where nothing is: servers may then omit the counts, and clients
/// would not bring new keys.
pub(crate) async fn write(out: &mut Vec<u8>, users: &Users, user: UserNumber, reader: &Reader) -> Result<(), Fault> {
    let counts = users.key_counts(user, &reader.device_id).await?;
    let KeyCounts { one_time, unused_fallbacks } = &*counts;
    json::name(out, "device_one_time_keys_count");
    json::push(out, "{");
    for (algorithm, count) in one_time {
        json::name(out, algorithm);
        json::push(out, &count.to_string());
    }
    json::push(out, "}");
    json::name(out, "device_unused_fallback_key_types");
    json::push(out, "[");
    for algorithm in unused_fallbacks {
        json::comma(out);
        push_string(out, algorithm);
    }
    json::push(out, "]");
    Ok(())
}
