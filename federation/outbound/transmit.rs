//! How a transaction leaves this process. Tests script it.

use bytes::Bytes;
use hearth_ports::{BoxFuture, PeerError};
use ruma::ServerName;

/// Hands a transaction to another server: `PUT /_matrix/federation/v1/send/{txnId}`, signed.
pub trait Transmit: Send + Sync {
    /// Sends a transaction whose body is this JSON object; the answer is the body of a 2xx. It is tried once, whatever
    /// happened to earlier requests to this server: when to try again is decided here.
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        transaction_id: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>>;
}
