//! Accounts and all that belongs to a user: sessions, devices, interactive authentication, profiles, account data, push
//! rules, filters, typing, receipts, presence, messages to devices, keys for end-to-end encryption.
//!
//! This crate never knows HTTP, a room's rules or its events' content, and never writes a room event: where a change here
//! must reach rooms (a profile, a deactivation), the caller tells both. Start with [`Users`].

mod account_data;
mod accounts;
mod departures;
mod devices;
mod ends;
mod fault;
mod filters;
mod ignored;
mod interactive;
pub mod keys;
mod memory;
mod names;
mod openid;
mod passwords;
mod presence;
mod profile;
mod push_rules;
mod receipt_writer;
mod receipts;
mod registering;
mod registration;
mod remote;
#[cfg(test)]
mod service_tests;
mod sessions;
mod settings;
mod shared_secret;
mod tags;
mod to_device;
mod tokens;
mod typing;
mod users;

pub use account_data::{ACCOUNT_DATA_BYTES_MAX, AccountData, AccountDataError};
pub use accounts::{Account, AccountError, CreateError, NewAccount};
pub use departures::Departure;
pub use devices::{Device, DeviceError};
pub use ends::SessionEnd;
pub use fault::Fault;
pub use filters::{FILTER_BYTES_MAX, FilterError};
pub use ignored::Ignored;
pub use interactive::{Challenge, InteractError, Interaction, Operation, Passed, Proof, ProofOf, Refusal, Stage};
pub use names::{BadName, Localpart};
pub use openid::{OPENID_TOKEN_LIFETIME_MS, OpenidToken};
pub use passwords::{PASSWORD_BYTES_MAX, PasswordError};
pub use presence::{Presence, PresenceState, PresenceUpdate, Syncing};
pub use profile::{PROFILE_BYTES_MAX, ProfileError};
pub use push_rules::{NewRule, PushRuleError, RulePlace, rules_json};
pub use receipts::{Receipt, ReceiptError, ReceiptKind};
pub use registering::{RegisterError, Registrant};
pub use registration::{RegistrationToken, TokenUseError};
pub use remote::RemotePresence;
pub use sessions::{AuthError, LogInError, LoginError, OpenError, OpenedSession, RefreshError, SessionWish};
pub use settings::{PasswordSettings, Registration, Secret, UserSettings};
pub use shared_secret::SharedSecretError;
pub use tags::TagError;
pub use to_device::{
    TO_DEVICE_MESSAGES_MAX, TO_DEVICE_USERS_MAX, ToDeviceContents, ToDeviceError, ToDeviceMessage, ToDeviceMessages,
};
pub use tokens::Session;
pub use typing::{Typing, TypingChange};
pub use users::Users;

pub use hearth_store::tables::users::{AccountKind, PasswordHash, Remembered};
