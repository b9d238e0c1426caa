//! Joins that come to nothing where branches of a room's graph meet.

use std::collections::{BTreeMap, BTreeSet};

use hearth_store::{EventNumber, LoadError, RoomNumber, StateDifference, StateVersion, Store, StoredEvent};
use ruma::{OwnedServerName, UserId, events::room::member::MembershipState};

/// Changes of the state that are read at once.
const DIFFERENCES_AT_ONCE: usize = 500;

/// The servers of users who are joined behind one of an event's previous events, but no longer before the event itself:
/// the state there is what several branches resolve into, and those joins lost.
///
/// No event of the room says so to them, as a kick would: a server that came in behind one branch, by rules that another
/// branch had changed, takes itself to be in the room for ever, and hears nothing, since it is in nobody's state. So the
/// event that joins the branches is the one that puts it out, and goes to it like any other that does. Not among them are
/// servers of users whom the state before the event removes by an event that cites the join: that was sent to them.
pub async fn undone_joins(
    store: &Store,
    room: RoomNumber,
    stored: &StoredEvent,
) -> Result<BTreeSet<OwnedServerName>, LoadError> {
    let (header, mut servers) = (&stored.header, BTreeSet::new());
    let before = header.state_before;
    if header.prevs.len() < 2 || before == StateVersion::UNKNOWN || !stored.accepted() {
        return Ok(servers);
    }
    let prevs = store.events(room, &header.prevs).await?;
    let ends = prevs.iter().flatten().filter(|prev| prev.accepted()).map(|prev| prev.header.state_after);
    let ends: BTreeSet<StateVersion> = ends.filter(|end| *end != before && *end != StateVersion::UNKNOWN).collect();
    for end in ends {
        let differences = store.state_difference(room, before, end).await?;
        for differences in differences.chunks(DIFFERENCES_AT_ONCE) {
            add_undone(store, room, differences, &mut servers).await?;
        }
    }
    Ok(servers)
}

async fn add_undone(
    store: &Store,
    room: RoomNumber,
    differences: &[StateDifference],
    servers: &mut BTreeSet<OwnedServerName>,
) -> Result<(), LoadError> {
    let pairs: Vec<_> = differences.iter().map(|difference| difference.state_key).collect();
    let pairs = store.state_keys(room, &pairs).await?;
    let members = differences.iter().zip(pairs).filter_map(|(difference, pair)| Some((difference, pair?)));
    let members: Vec<_> = members.filter(|(_, pair)| pair.kind == "m.room.member").collect();
    // `after` is what the branch has, `before` what counts.
    let events = |numbers: Vec<EventNumber>| async move {
        let events = store.events(room, &numbers).await?;
        Ok::<BTreeMap<_, _>, LoadError>(events.into_iter().flatten().map(|stored| (stored.number, stored)).collect())
    };
    let on_branch = events(members.iter().filter_map(|(difference, _)| difference.after).collect()).await?;
    let counting = events(members.iter().filter_map(|(difference, _)| difference.before).collect()).await?;
    for (difference, pair) in members {
        let join = difference.after.and_then(|event| on_branch.get(&event)).filter(|stored| is_join(stored));
        let (Some(join), Ok(user)) = (join, <&UserId>::try_from(&*pair.state_key)) else { continue };
        let counts = difference.before.and_then(|event| counting.get(&event));
        if !counts.is_some_and(|counts| is_join(counts) || counts.header.auths.contains(&join.number)) {
            servers.insert(user.server_name().to_owned());
        }
    }
    Ok(())
}

fn is_join(stored: &StoredEvent) -> bool {
    stored.event.membership() == Some(MembershipState::Join)
}
