//! The rows, by subject. Each file names its keys and its values; nothing else in the server builds a key.

mod directory;
mod events;
mod federation;
mod identifiers;
mod membership;
mod misc;
mod partial;
mod people;
mod remote;
mod room;
mod server_keys;
mod servers;
mod state;
mod transactions;
pub mod users;

pub use directory::{
    AliasRow, PUBLIC_LIST, PublishedRow, ReportRow, alias_key, alias_partition, published_key, published_prefix,
    report_key, report_partition, room_alias_key,
};
pub use events::{
    BackwardRow, EventFlags, EventHeader, GapRow, HeldRow, SenderTransaction, TIMELINE_POSITION_OFFSET, TimelineRow,
    backward_key, backward_prefix, encode_event, event_index_key, event_key, gap_key, held_key, held_prefix, put_event,
    put_gap, timeline_key,
};
pub use federation::{
    DestinationRow, QueuedRow, all_queued_prefix, destination_key, destination_prefix, put_queued, queued_key,
    queued_position_offset, queued_prefix, queued_server, server_number, server_partition,
};
pub use identifiers::{RoomIdRow, UserIdRow, room_index_key, room_name_key, user_index_key, user_name_key};
pub use membership::{Membership, MembershipRow, member_rooms_key, member_rooms_prefix};
pub use misc::{CursorRow, SchemaRow, cursor_key, cursor_partition, schema_key, schema_partition};
pub use partial::{
    PartialRow, UnfinishedRow, WAITING_POSITION_OFFSET, WaitingRow, partial_key, partial_prefix, staged_key,
    staged_prefix, unfinished_key, unfinished_prefix, waiting_key, waiting_prefix,
};
pub use people::{
    BuildRow, Circle, ListedRow, NO_ROOM, PersonRow, build_key, build_partition, listed_key, parts_of_word_key,
    person_key, persons_prefix, user_of_person_key, word_key, word_user_prefix, words_prefix,
};
pub use remote::{OutsideRow, STRIPPED_BYTES_MAX, outside_key, outside_prefix, put_outside};
pub use room::{
    Create, CurrentStateRow, Extremity, Head, ReceiptPlaceRow, ReceiptRow, StateKeyRow, current_state_key,
    current_state_prefix, head_key, heads_prefix, put_receipt, receipt_key, receipt_place_key, receipt_place_prefix,
    receipt_prefix, state_key_key,
};
pub use server_keys::{
    KEY_ANSWER_BYTES_MAX, KEY_ANSWERS_MAX, KEY_ID_BYTES_MAX, KEYS_PER_SERVER_MAX, KeyAnswerRow, ServerKeyRow,
    ServerKeysRow, server_keys_key,
};
pub use servers::{
    ServerRoomRow, ServerRow, put_room_server, put_uncounted_server, room_server_key, room_servers_prefix,
    server_room_key, server_rooms_prefix,
};
pub(crate) use state::auth_runs;
pub use state::{
    AUTH_BLOCK, AuthEdges, AuthRun, StateChunk, StateDifference, StateHeader, auth_run_key, equal_state_key,
    state_version_key,
};
pub use transactions::{TransactionRow, remote_transaction_key, transaction_key};
