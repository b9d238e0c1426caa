//! What an operator can do to a running server, by a socket in `data_dir`, and to a stopped one, by opening its data.
//!
//! One connection is one request and one answer, each a line of JSON. Only the user that the server runs as, and root,
//! are heard.

mod client;
mod operator;
mod socket;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

pub(crate) use self::{
    client::ask,
    operator::{Operator, copy_file},
    socket::listen,
};

/// What to do. It has no `Debug`: there are passwords in it.
#[derive(Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Make an account.
    CreateUser {
        /// A localpart or a user id.
        name: String,
        /// Its password.
        password: String,
        /// An administrator.
        admin: bool,
    },
    /// Set a new password and end all sessions.
    ResetPassword {
        /// A localpart or a user id.
        name: String,
        /// Its new password.
        password: String,
    },
    /// List the accounts.
    ListUsers,
    /// How another server is reached, and what its keys are.
    FederationCheck {
        /// Its name.
        server: String,
    },
    /// A new signing key in place of the present one.
    RotateKey,
    /// Copy everything.
    Backup {
        /// An absolute path that does not exist.
        folder: PathBuf,
    },
}

/// Text for standard output, or what went wrong.
pub(crate) type Answer = Result<String, String>;

/// The longest request and the longest answer, in bytes: a list of some hundred thousand accounts.
const LINE_BYTES_MAX: u64 = 16 << 20;
