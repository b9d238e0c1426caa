//! Accounts, sessions, devices, profiles, account data, presence: what belongs to a user.

mod account_data;
mod admin;
mod answers;
mod deactivate;
mod devices;
mod filter;
mod interactive;
mod keys;
mod login;
mod logout;
mod mutual_rooms;
mod openid;
mod password;
mod presence;
mod profile;
mod push_rules;
mod read_markers;
mod receipt;
mod refresh;
mod register;
mod registration_token;
mod shared_secret;
mod tags;
mod threepid;
mod to_device;
mod typing;
mod user_directory;
mod username;
mod whoami;
mod whois;

pub use deactivate::finish_departures;

use hearth_edge::Route;

use crate::ClientState;

/// The present path of an endpoint, and the one before version 1.1 of the specification.
macro_rules! paths {
    ($rest:literal) => {
        &[concat!("/_matrix/client/v3/", $rest), concat!("/_matrix/client/r0/", $rest)]
    };
}
use paths;

/// The endpoints of this folder.
pub(crate) fn routes() -> Vec<Route<ClientState>> {
    [
        account_data::routes(),
        admin::routes(),
        devices::routes(),
        filter::routes(),
        keys::routes(),
        login::routes(),
        logout::routes(),
        presence::routes(),
        profile::routes(),
        push_rules::routes(),
        shared_secret::routes(),
        tags::routes(),
        vec![
            deactivate::route(),
            mutual_rooms::route(),
            openid::route(),
            password::route(),
            read_markers::route(),
            receipt::route(),
            refresh::route(),
            register::route(),
            registration_token::route(),
            threepid::route(),
            to_device::route(),
            typing::route(),
            user_directory::route(),
            username::route(),
            whoami::route(),
            whois::route(),
        ],
    ]
    .into_iter()
    .flatten()
    .collect()
}
