//! Errors that are ours.

use hearth_store::{CommitError, LoadError, Unavailable};

/// Something that no user can change. Its text is for the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// The store can't be asked now, or too many others write the same; later it may work.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// What is stored, or what we meant to store, is wrong.
    #[error("broken: {0}")]
    Broken(String),
}

/// How often a write that lost a race is decided again. Sixteen people don't change one account at the same time.
pub(crate) const COMMIT_ATTEMPTS: usize = 16;

impl Fault {
    /// Every attempt lost.
    pub(crate) fn contended() -> Self {
        Self::Unavailable("another write always came first".to_owned())
    }
}

impl From<LoadError> for Fault {
    fn from(error: LoadError) -> Self {
        match error {
            LoadError::Unavailable(error) => error.into(),
            LoadError::Corrupt(error) => Self::Broken(error.to_string()),
        }
    }
}

impl From<Unavailable> for Fault {
    fn from(error: Unavailable) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl From<hearth_store::Corrupt> for Fault {
    fn from(error: hearth_store::Corrupt) -> Self {
        Self::Broken(error.to_string())
    }
}

impl From<CommitError> for Fault {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Self::contended(),
            CommitError::Unavailable(error) => error.into(),
            CommitError::Malformed(error) => Self::Broken(error.to_string()),
        }
    }
}

/// Whether a commit went through; `false`: it lost a race and is to be decided again.
pub(crate) fn committed<T>(result: Result<T, CommitError>) -> Result<bool, Fault> {
    match result {
        Ok(_) => Ok(true),
        Err(CommitError::Conflict) => Ok(false),
        Err(error) => Err(error.into()),
    }
}
