//! Tables and stories about one reader, `@reader:hearth`, and one other, `@other:hearth`.

use bytes::Bytes;
use hearth_core::RoomVersion;
use ruma::{UserId, owned_event_id, owned_room_id, user_id};

use super::*;

const VISIBILITIES: [Visibility; 4] =
    [Visibility::WorldReadable, Visibility::Shared, Visibility::Invited, Visibility::Joined];
const MEMBERSHIPS: [Membership; 5] =
    [Membership::Join, Membership::Invite, Membership::Knock, Membership::Leave, Membership::Ban];

fn reader() -> &'static UserId {
    user_id!("@reader:hearth")
}

fn visibility_str(visibility: Visibility) -> &'static str {
    match visibility {
        Visibility::WorldReadable => "world_readable",
        Visibility::Shared => "shared",
        Visibility::Invited => "invited",
        Visibility::Joined => "joined",
    }
}

fn event(sender: &str, kind: &str, state_key: Option<&str>, content: &str) -> Event {
    let state_key = state_key.map_or(String::new(), |key| format!(r#""state_key":"{key}","#));
    let json = format!(
        r#"{{"auth_events":[],"content":{content},"depth":1,"origin_server_ts":1,"prev_events":[],{state_key}"sender":"{sender}","type":"{kind}"}}"#
    );
    let version = RoomVersion::parse("11").expect("a known version");
    Event::parse_stored(version, owned_event_id!("$event"), owned_room_id!("!room:hearth"), Bytes::from(json))
        .expect("a well-formed event")
}

fn message(sender: &str) -> Event {
    event(sender, "m.room.message", None, r#"{"body":"hello"}"#)
}

fn member(user: &str, membership: Membership) -> Event {
    let content = format!(r#"{{"membership":"{}"}}"#, membership.as_str());
    event("@other:hearth", "m.room.member", Some(user), &content)
}

fn history(visibility: Visibility) -> Event {
    let content = format!(r#"{{"history_visibility":"{}"}}"#, visibility_str(visibility));
    event("@other:hearth", "m.room.history_visibility", Some(""), &content)
}

fn at(visibility: Visibility, membership: Membership, joined_later: bool) -> Circumstances {
    Circumstances {
        before: Some(Standing { visibility, membership }),
        accepted: true,
        joined_later,
        in_given_state: false,
        sender_ignored: false,
        sender_erased: false,
    }
}

fn shown(event: &Event, at: &Circumstances) -> char {
    match sight(reader(), event, at) {
        Sight::Show => 'y',
        Sight::ShowRedacted => 'r',
        Sight::Hide => '-',
    }
}

#[test]
fn messages_follow_the_five_rules() {
    // Columns: join, invite, knock, leave, ban; then the same for a reader who joined later.
    let table = ["yyyyy yyyyy", "y---- yyyyy", "yy--- yy---", "y---- y----"];
    for (visibility, expected) in VISIBILITIES.into_iter().zip(table) {
        let row =
            |later| MEMBERSHIPS.map(|membership| shown(&message("@other:hearth"), &at(visibility, membership, later)));
        let found = [row(false), row(true)].map(|row| row.into_iter().collect::<String>()).join(" ");
        assert_eq!(found, expected, "{visibility:?}");
        // Other people's member events and other state are judged the same.
        for membership in MEMBERSHIPS {
            for later in [false, true] {
                let at = at(visibility, membership, later);
                let plain = shown(&message("@other:hearth"), &at);
                for other in MEMBERSHIPS {
                    assert_eq!(shown(&member("@third:hearth", other), &at), plain);
                }
                assert_eq!(shown(&event("@other:hearth", "m.room.topic", Some(""), "{}"), &at), plain);
                // Neither kind of event that is asked about counts under another state key, or without one.
                let elsewhere = r#"{"history_visibility":"world_readable"}"#;
                assert_eq!(
                    shown(&event("@other:hearth", "m.room.history_visibility", Some("x"), elsewhere), &at),
                    plain
                );
                assert_eq!(shown(&event("@other:hearth", "m.room.history_visibility", None, elsewhere), &at), plain);
                let no_state = event("@other:hearth", "m.room.member", None, r#"{"membership":"join"}"#);
                assert_eq!(shown(&no_state, &at), plain);
            }
        }
    }
}

#[test]
fn own_member_events_show_by_the_membership_before_or_after() {
    // Rows: the membership before; columns: after. The reader does not join later.
    let tables = [
        (Visibility::WorldReadable, ["yyyyy", "yyyyy", "yyyyy", "yyyyy", "yyyyy"]),
        (Visibility::Shared, ["yyyyy", "yyyyy", "yyyyy", "y----", "y----"]),
        // An invite is itself the point from which "invited" history opens.
        (Visibility::Invited, ["yyyyy", "yyyyy", "yyyyy", "yy---", "yy---"]),
        (Visibility::Joined, ["yyyyy", "yyyyy", "yyyyy", "y----", "y----"]),
    ];
    for (visibility, table) in tables {
        for (before, expected) in MEMBERSHIPS.into_iter().zip(table) {
            let own = |after| shown(&member("@reader:hearth", after), &at(visibility, before, false));
            assert_eq!(MEMBERSHIPS.map(own).into_iter().collect::<String>(), expected, "{visibility:?}, {before:?}");
        }
    }
}

#[test]
fn changes_of_visibility_show_by_either_side() {
    // Rows: before; columns: after; for a stranger, an invitee, and one who joined later.
    let tables = [
        (Membership::Leave, false, ["yyyy", "y---", "y---", "y---"]),
        (Membership::Knock, false, ["yyyy", "y---", "y---", "y---"]),
        (Membership::Ban, false, ["yyyy", "y---", "y---", "y---"]),
        (Membership::Invite, false, ["yyyy", "y-y-", "yyyy", "y-y-"]),
        (Membership::Leave, true, ["yyyy", "yyyy", "yy--", "yy--"]),
        (Membership::Join, false, ["yyyy", "yyyy", "yyyy", "yyyy"]),
    ];
    for (membership, later, table) in tables {
        for (before, expected) in VISIBILITIES.into_iter().zip(table) {
            let row = |after| shown(&history(after), &at(before, membership, later));
            assert_eq!(
                VISIBILITIES.map(row).into_iter().collect::<String>(),
                expected,
                "{membership:?}, from {before:?}"
            );
        }
    }
}

#[test]
fn what_is_not_accepted_or_not_placed_is_denied_to_everybody() {
    for visibility in VISIBILITIES {
        for membership in MEMBERSHIPS {
            let accepted = at(visibility, membership, true);
            let refused = Circumstances { accepted: false, ..accepted };
            let unknown = Circumstances { before: None, ..accepted };
            for event in [
                message("@reader:hearth"),
                history(Visibility::WorldReadable),
                member("@reader:hearth", Membership::Join),
            ] {
                assert_eq!((shown(&event, &refused), shown(&event, &unknown)), ('-', '-'));
            }
        }
    }
}

#[test]
fn ignoring_hides_messages_but_no_state() {
    let ignored = Circumstances { sender_ignored: true, ..at(Visibility::Shared, Membership::Join, true) };
    assert_eq!(shown(&message("@other:hearth"), &ignored), '-');
    assert_eq!(shown(&event("@other:hearth", "m.room.topic", Some(""), "{}"), &ignored), 'y');
    assert_eq!(shown(&member("@third:hearth", Membership::Invite), &ignored), 'y');
    // Nobody loses their own messages by ignoring themselves.
    assert_eq!(shown(&message("@reader:hearth"), &ignored), 'y');
    // Ignoring opens nothing.
    let stranger = Circumstances { sender_ignored: true, ..at(Visibility::Joined, Membership::Leave, true) };
    assert_eq!(shown(&event("@other:hearth", "m.room.topic", Some(""), "{}"), &stranger), '-');
}

#[test]
fn state_that_is_given_anyway_keeps_its_place() {
    let given = Circumstances { in_given_state: true, ..at(Visibility::Joined, Membership::Leave, true) };
    assert_eq!(shown(&member("@third:hearth", Membership::Join), &given), 'y');
    assert_eq!(shown(&message("@other:hearth"), &given), '-');
    assert_eq!(shown(&member("@third:hearth", Membership::Join), &Circumstances { accepted: false, ..given }), '-');
    assert_eq!(shown(&member("@third:hearth", Membership::Join), &Circumstances { before: None, ..given }), '-');
}

#[test]
fn erased_senders_are_redacted_to_those_who_were_not_there() {
    let erased =
        |visibility, membership, later| Circumstances { sender_erased: true, ..at(visibility, membership, later) };
    assert_eq!(shown(&message("@other:hearth"), &erased(Visibility::Shared, Membership::Join, true)), 'y');
    assert_eq!(shown(&message("@other:hearth"), &erased(Visibility::Shared, Membership::Leave, true)), 'r');
    assert_eq!(shown(&message("@other:hearth"), &erased(Visibility::WorldReadable, Membership::Leave, false)), 'r');
    assert_eq!(shown(&message("@other:hearth"), &erased(Visibility::Invited, Membership::Invite, true)), 'r');
    assert_eq!(shown(&message("@other:hearth"), &erased(Visibility::Joined, Membership::Leave, true)), '-');
    let both = Circumstances { sender_ignored: true, ..erased(Visibility::Shared, Membership::Leave, true) };
    assert_eq!(shown(&message("@other:hearth"), &both), '-');
}

#[test]
fn hostile_contents_count_as_the_default() {
    for content in [
        "{}",
        r#"{"history_visibility":"public"}"#,
        r#"{"history_visibility":"WORLD_READABLE"}"#,
        r#"{"history_visibility":1}"#,
        r#"{"history_visibility":null}"#,
        r#"{"history_visibility":["world_readable"]}"#,
    ] {
        let event = event("@other:hearth", "m.room.history_visibility", Some(""), content);
        assert_eq!(Visibility::of(Some(&event)), Visibility::Shared, "{content}");
    }
    let escaped =
        event("@other:hearth", "m.room.history_visibility", Some(""), r#"{"history_visibility":"joi\u006eed"}"#);
    assert_eq!(Visibility::of(Some(&escaped)), Visibility::Joined);
    for content in ["{}", r#"{"membership":"JOIN"}"#, r#"{"membership":7}"#, r#"{"membership":"owner"}"#] {
        let event = event("@other:hearth", "m.room.member", Some("@reader:hearth"), content);
        assert_eq!(Membership::of(Some(&event)), Membership::Leave, "{content}");
    }
    assert_eq!((Visibility::of(None), Membership::of(None)), (Visibility::Shared, Membership::Leave));
}

/// Walks a room's life and tells which messages the reader sees at its end. Steps: `m` a message, `j`, `i`, `k`, `l`,
/// `b` the reader's membership, `W`, `S`, `I`, `J` the visibility.
fn walk(steps: &str) -> String {
    let events: Vec<Event> = steps
        .chars()
        .map(|step| match step {
            'j' => member("@reader:hearth", Membership::Join),
            'i' => member("@reader:hearth", Membership::Invite),
            'k' => member("@reader:hearth", Membership::Knock),
            'l' => member("@reader:hearth", Membership::Leave),
            'b' => member("@reader:hearth", Membership::Ban),
            'W' => history(Visibility::WorldReadable),
            'S' => history(Visibility::Shared),
            'I' => history(Visibility::Invited),
            'J' => history(Visibility::Joined),
            _ => message("@other:hearth"),
        })
        .collect();
    let last_join = steps.rfind('j');
    let mut trail = Trail::new();
    trail.set(0, Standing::NOTHING);
    let mut seen = String::new();
    for (index, (step, event)) in steps.chars().zip(&events).enumerate() {
        let before = trail.at(index);
        let joined_later = last_join.is_some_and(|join| join >= index);
        seen.push(
            if shown(event, &Circumstances { before, ..at(Visibility::Joined, Membership::Leave, joined_later) }) == 'y'
            {
                step
            } else {
                '.'
            },
        );
        trail.step(event, reader(), index + 1);
    }
    seen
}

#[test]
fn stories() {
    let stories = [
        // What is sent after leaving stays unseen, also in shared history; a second stay opens the time between.
        ("joined, left", "SmjmmlmmS", "Smjmml...".to_owned()),
        ("left and came back, shared", "Smjmlmmjm", "Smjmlmmjm".to_owned()),
        ("left and came back, joined", "Jmjmlmmjm", "J.jml..jm".to_owned()),
        ("left and came back, invited", "Imjmlmimjm", "I.jml.imjm".to_owned()),
        ("joined, left again, shared before", "SmlmjmlmSm", "Smlmjml...".to_owned()),
        ("banned", "SmjmbmSm", "Smjmb...".to_owned()),
        ("banned, unbanned, not back", "Smjmbmlm", "Smjmb...".to_owned()),
        ("banned without ever being there", "Smbm", "....".to_owned()),
        ("invited, never came, invited history", "ImimlmIm", "..iml...".to_owned()),
        ("invited, never came, joined history", "JmimlmJm", "....l...".to_owned()),
        ("invited, never came, shared history", "SmimlmSm", "....l...".to_owned()),
        ("knocked, refused", "SmkmlmSm", "....l...".to_owned()),
        ("knocked, let in", "Jmkmimjm", "J...i.jm".to_owned()),
        ("never there", "SmImJmWmmS", "......WmmS".to_owned()),
        ("never there, and the window closes", "WmmSmImJm", "WmmS.....".to_owned()),
        ("the past is not opened by what comes later", "JmSmWmjm", "J.SmWmjm".to_owned()),
        ("only changes at the edges of what is seen", "JmImSmj", "J...Smj".to_owned()),
        ("a member sees all visibilities", "jmJmImSmWm", "jmJmImSmWm".to_owned()),
    ];
    for (name, steps, expected) in stories {
        assert_eq!(walk(steps), expected, "{name}");
    }
}

#[test]
fn a_trail_forgets_at_forks() {
    let mut trail = Trail::new();
    trail.set(5, Standing::NOTHING);
    assert_eq!(trail.at(6), None);
    trail.step(&member("@reader:hearth", Membership::Join), reader(), 6);
    assert_eq!(trail.at(6).map(|standing| standing.membership), Some(Membership::Join));
    assert_eq!(trail.at(5), None);
}
