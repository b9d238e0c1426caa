//! Requests to other machines: HTTP over TLS with an address policy, pooled connections and bounded answers; and DNS.
//!
//! This crate implements two ports and knows nothing of Matrix: it never finds out where a server lives, never signs,
//! never follows a redirect and never repeats a request that may have been worked on twice. Start with [`HttpsClient`];
//! [`AddressPolicy`] decides what may be connected to, [`DnsResolver`] turns names into addresses.

mod body;
mod connect;
mod dns;
mod https;
mod observe;
mod policy;
mod srv;
mod tls;

pub use dns::{DnsResolver, DnsSettings};
pub use https::{HttpsClient, HttpsSettings};
pub use policy::{AddressPolicy, AddressRange, AddressRangeError, DENIED_BY_DEFAULT};

/// What the operator has to put right before requests can be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A file of certificate authorities cannot be used.
    #[error("{path}: {reason}")]
    AuthorityFile {
        /// The file as it was named.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Every connection would fail.
    #[error(
        "no certificate authority is known: install the system's (the package is usually called ca-certificates) or name \
         files of your own"
    )]
    NoAuthorities,
    /// The system's own configuration cannot be used.
    #[error("{0}")]
    System(String),
}
