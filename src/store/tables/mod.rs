//! The rows, by subject. Each file names its keys and its values; nothing else in the server builds a key.

mod directory;
mod events;
mod membership;
mod room;
mod state;
mod transactions;
pub mod users;

pub use events::{EventFlags, EventHeader, SenderTransaction, TIMELINE_POSITION_OFFSET, TimelineRow, event_index_key, event_key, timeline_key};
pub use membership::{Membership, MembershipRow, member_rooms_key};
pub use room::{Create, CurrentStateRow, Extremity, Head, ReceiptRow, StateKeyRow, current_state_key, head_key, receipt_key, state_key_key};
pub use directory::{
    AliasRow, PUBLIC_LIST, PublishedRow, ReportRow, alias_key, alias_partition, published_key, report_key, report_partition,
    room_alias_key,
};
pub use transactions::{TransactionRow, transaction_key};
