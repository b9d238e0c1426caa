//! Tables and stories about one server, `them`, and others.

use bytes::Bytes;
use hearth_core::RoomVersion;
use ruma::{owned_event_id, owned_room_id, server_name};

use super::*;

const VISIBILITIES: [Visibility; 4] =
    [Visibility::WorldReadable, Visibility::Shared, Visibility::Invited, Visibility::Joined];
const PARTIES: [Party; 3] = [Party::Joined, Party::Invited, Party::Outside];

fn event(sender: &str, kind: &str, state_key: Option<&str>, content: &str) -> Event {
    let state_key = state_key.map_or(String::new(), |key| format!(r#""state_key":"{key}","#));
    let json = format!(
        r#"{{"auth_events":[],"content":{content},"depth":1,"origin_server_ts":1,"prev_events":[],{state_key}"sender":"{sender}","type":"{kind}"}}"#
    );
    let version = RoomVersion::parse("11").expect("a known version");
    Event::parse_stored(version, owned_event_id!("$event"), owned_room_id!("!room:us"), Bytes::from(json))
        .expect("a well-formed event")
}

fn message(sender: &str) -> Event {
    event(sender, "m.room.message", None, r#"{"body":"hello"}"#)
}

fn at(visibility: Visibility, party: Party) -> ServerCircumstances {
    ServerCircumstances {
        in_room: true,
        before: Some(ServerStanding { visibility, party }),
        rejected: false,
        outlier: false,
        sender_erased: false,
    }
}

fn given(event: &Event, at: &ServerCircumstances) -> char {
    match server_sight(server_name!("them"), event, at) {
        Sight::Show => 'y',
        Sight::ShowRedacted => 'r',
        Sight::Hide => '-',
    }
}

fn row(event: &Event, change: impl Fn(ServerCircumstances) -> ServerCircumstances) -> String {
    let of = |visibility| PARTIES.map(|party| given(event, &change(at(visibility, party)))).into_iter();
    VISIBILITIES.map(|visibility| of(visibility).collect::<String>()).join(" ")
}

#[test]
fn what_users_may_not_see_is_cut_down() {
    let message = message("@a:us");
    assert_eq!(row(&message, |at| at), "yyy yyy yyr yrr");
    assert_eq!(row(&message, |at| ServerCircumstances { in_room: false, ..at }), "--- --- --- ---");
    assert_eq!(row(&message, |at| ServerCircumstances { rejected: true, ..at }), "--- --- --- ---");
    assert_eq!(row(&message, |at| ServerCircumstances { sender_erased: true, ..at }), "yrr yrr yrr yrr");
    assert_eq!(row(&message, |at| ServerCircumstances { before: None, ..at }), "rrr rrr rrr rrr");
}

#[test]
fn a_server_is_given_what_it_said_itself_but_not_once_it_has_left() {
    let own = message("@b:them");
    assert_eq!(row(&own, |at| ServerCircumstances { before: None, ..at }), "yyy yyy yyy yyy");
    assert_eq!(row(&own, |at| at), "yyy yyy yyy yyy");
    assert_eq!(row(&own, |at| ServerCircumstances { in_room: false, ..at }), "--- --- --- ---");
    assert_eq!(row(&message("@b:them.else"), |at| at), "yyy yyy yyr yrr");
}

#[test]
fn the_event_that_opens_or_closes_the_door_is_seen() {
    let member =
        |user: &str, to: &str| event("@a:us", "m.room.member", Some(user), &format!(r#"{{"membership":"{to}"}}"#));
    assert_eq!(row(&member("@b:them", "join"), |at| at), "yyy yyy yyy yyy");
    assert_eq!(row(&member("@b:them", "leave"), |at| at), "yyy yyy yyy yyy");
    assert_eq!(row(&member("@b:elsewhere", "join"), |at| at), "yyy yyy yyr yrr");
    let visibility = |to: &str| {
        let content = format!(r#"{{"history_visibility":"{to}"}}"#);
        event("@a:us", "m.room.history_visibility", Some(""), &content)
    };
    assert_eq!(row(&visibility("shared"), |at| at), "yyy yyy yyy yyy");
    assert_eq!(row(&visibility("joined"), |at| at), "yyy yyy yyr yrr");
    // A message of that type, and the state of another key, change nothing.
    let other = event("@a:us", "m.room.history_visibility", Some("x"), r#"{"history_visibility":"shared"}"#);
    assert_eq!(row(&other, |at| at), "yyy yyy yyr yrr");
}

#[test]
fn state_without_a_place_goes_whole_messages_do_not() {
    let outlier = |at| ServerCircumstances { before: None, outlier: true, ..at };
    let state = event("@a:us", "m.room.topic", Some(""), r#"{"topic":"t"}"#);
    assert_eq!(given(&state, &outlier(at(Visibility::Joined, Party::Outside))), 'y');
    assert_eq!(given(&message("@a:us"), &outlier(at(Visibility::WorldReadable, Party::Joined))), 'r');
}
