//! Changing rooms: create, join, send, invite, aliases, directory.

mod aliases;
mod answers;
mod ban;
mod create_room;
mod delete_alias;
mod forget;
mod get_alias;
mod get_visibility;
mod hierarchy;
mod invite;
mod join;
mod joined_rooms;
mod kick;
mod knock;
mod leave;
mod members;
mod public_rooms;
mod put_alias;
mod put_visibility;
mod redact;
mod report_event;
mod report_room;
mod report_user;
mod send;
mod set_state;
mod summary;
mod unban;
mod upgrade;

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
    vec![
        aliases::route(),
        ban::route(),
        create_room::route(),
        delete_alias::route(),
        forget::route(),
        get_alias::route(),
        get_visibility::route(),
        hierarchy::route(),
        invite::route(),
        join::by_id(),
        join::by_id_or_alias(),
        joined_rooms::route(),
        kick::route(),
        knock::route(),
        leave::route(),
        public_rooms::get(),
        public_rooms::post(),
        put_alias::route(),
        put_visibility::route(),
        redact::post(),
        redact::put(),
        report_event::route(),
        report_room::route(),
        report_user::route(),
        send::post(),
        send::put(),
        set_state::route(),
        summary::route(),
        unban::route(),
        upgrade::route(),
    ]
}
