//! How a transaction leaves this process. Tests script it.

use bytes::Bytes;
use hearth_ports::{BoxFuture, PeerError};
use http::Method;
use ruma::ServerName;

use crate::remote::{Ask, Remote, Urgency};

/// What is waited for an answer, in milliseconds: a server may check 50 events before it gives one.
const TIMEOUT_MS: u64 = 60_000;

/// The largest answer, in bytes: a few words on each of 50 events.
const ANSWER_BYTES_MAX: usize = 1 << 20;

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

    /// Until when a server asked to be left alone, in milliseconds since the Unix epoch; `None`: it did not.
    fn asked_to_wait_until(&self, destination: &ServerName) -> Option<u64>;
}

impl Transmit for Remote {
    fn send<'a>(
        &'a self,
        destination: &'a ServerName,
        transaction_id: &'a str,
        body: Bytes,
    ) -> BoxFuture<'a, Result<Bytes, PeerError>> {
        let ask = Ask {
            method: Method::PUT,
            // Ids of transactions are of letters, digits and hyphens.
            path: format!("/_matrix/federation/v1/send/{transaction_id}"),
            body: Some(body),
            signed: true,
            urgency: Urgency::Always,
            timeout_ms: TIMEOUT_MS,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        Box::pin(Remote::send(self, destination, ask))
    }

    fn asked_to_wait_until(&self, destination: &ServerName) -> Option<u64> {
        Remote::asked_to_wait_until(self, destination)
    }
}
