//! Rows of local users, in the user's partition unless said otherwise. In `Us`: `a user` (account), `s user` (the set of
//! its sessions), `D user device`, `p user` (profile), `r user` (which registration made the account),
//! `d user room type` and `y user position` (account data), `f user filter`, `b session` (interactive authentication,
//! partition of its own key), `k user device` (identity keys), `o user device` (keys that others claim), `c user`
//! (cross-signing keys), `v user otheruser` (what a user signed of another), `l user` (the last change of the device
//! list), `m user` (that of keys that concern the user alone) and
//! `m user otheruser` (in whose keys it is seen), `q user device position` (messages that wait for a device) and `Q user device` (how much that is), `e user` (what
//! other servers were told of the devices). In `Fd`, of other servers' users: `lists.rs`. In `Ix`: `t tokenhash`. In `Mi`: `g token` (registration tokens) and `G token registration`
//! (their claims), both in the token's partition, `j leave user` (rooms to be left: see [`DepartureRow`])
//! and `j bind user invite16` (invites to be asked for: see [`BindingRow`]).

mod account;
mod binding;
mod data;
mod departure;
mod interactive;
mod keys;
mod lists;
mod registration;
mod session;
mod to_device;

pub use account::{
    AccountKind, AccountRow, PasswordHash, ProfileRow, RegistrationTokenRow, SessionSetRow, account_key,
    account_of_key, accounts_prefix, profile_key, registration_token_key, registration_token_partition,
    session_set_key,
};
pub use binding::{BindingRow, binding_key, bindings_prefix};
pub use data::{
    ACCOUNT_DATA_POSITION_OFFSET, AccountDataIndexRow, AccountDataRow, FilterRow, account_data_index_key,
    account_data_index_prefix, account_data_key, account_data_prefix, account_data_room_of_key, filter_key,
};
pub use departure::{DepartureRow, departure_key, departure_of_key, departures_prefix};
pub use interactive::{InteractiveRow, Remembered, interactive_key, interactive_partition, interactive_prefix};
pub use keys::{
    CLAIMABLE_KEY_ID_BYTES_MAX, CLAIMABLE_KEYS_BYTES_MAX, ClaimableKey, ClaimableKeysRow, CrossSigningRow,
    DeviceKeysRow, DeviceListRow, FallbackKey, IDENTITY_KEYS_BYTES_MAX, KEY_ALGORITHM_BYTES_MAX, UserSignatureRow,
    claimable_keys_key, cross_signing_key, device_keys_key, device_keys_prefix, device_list_key, device_of_keys_key,
    own_keys_key, own_view_key, seen_of_own_view_key, user_signature_key,
};
pub use lists::{
    RemoteDeviceRow, RemoteListRow, ToldDevicesRow, refresh_key, refresh_of_key, refreshes_prefix, remote_device_key,
    remote_devices_prefix, remote_list_key, told_devices_key,
};
pub use registration::{
    RegistrationId, RegistrationRow, TokenClaimRow, registration_key, token_claim_key, token_claim_of_key,
    token_claims_prefix,
};
pub use session::{
    DeviceRow, RefreshStep, TokenHash, TokenKind, TokenPair, TokenRow, device_key, device_of_key, devices_prefix,
    token_key,
};
pub use to_device::{
    TO_DEVICE_CONTENT_BYTES_MAX, ToDeviceCountRow, ToDeviceRow, ended_device_key, ended_device_of_key,
    ended_devices_prefix, to_device_count_key, to_device_key, to_device_position, to_device_position_offset,
    to_device_prefix,
};
