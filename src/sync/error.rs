//! Why a sync gives no answer.

use hearth_store::LoadError;
use hearth_users::Fault;
use hearth_view::{BadFilter, BadToken};

/// Why a sync gives no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum SyncError {
    /// `since` is not a token of this server.
    #[error(transparent)]
    BadToken(#[from] BadToken),
    /// `since` is ahead of everything that is stored: it belongs to another database, or to a lost part of this one.
    #[error("the token is from a time that this server does not know")]
    UnknownPlace,
    /// The filter in the request, or the stored one, is not a filter.
    #[error(transparent)]
    BadFilter(#[from] BadFilter),
    /// There is no stored filter of this id.
    #[error("there is no such filter")]
    UnknownFilter,
    /// The account is not known here.
    #[error("unknown account")]
    UnknownUser,
    /// The store can't be asked now, or is damaged. The text is for the log.
    #[error("{0}")]
    Fault(Fault),
}

impl From<LoadError> for SyncError {
    fn from(error: LoadError) -> Self {
        Self::Fault(error.into())
    }
}

impl From<Fault> for SyncError {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}
