//! Putting events in order.

use std::collections::HashMap;

use hearth_core::Event;
use ruma::{EventId, OwnedEventId};

/// The places of the events, each behind those of the events that it rests on (`edges`: their ids; others are passed
/// over). Where they go round in a circle, which room versions 1 and 2 let happen, one of them comes too early.
pub(super) fn in_order<'e>(events: &'e [Event], edges: impl Fn(&'e Event) -> &'e [OwnedEventId]) -> Vec<usize> {
    let places: HashMap<&EventId, usize> =
        events.iter().enumerate().map(|(at, event)| (event.event_id(), at)).collect();
    let mut order = Vec::with_capacity(events.len());
    let mut is_met = vec![false; events.len()];
    for first in 0..events.len() {
        if std::mem::replace(&mut is_met[first], true) {
            continue;
        }
        // Each entry: an event, and which of its edges is next.
        let mut path = vec![(first, 0)];
        while let Some((place, next)) = path.last_mut() {
            match edges(&events[*place]).get(*next) {
                Some(id) => {
                    *next += 1;
                    if let Some(below) = places.get(&**id).filter(|below| !is_met[**below]) {
                        is_met[*below] = true;
                        path.push((*below, 0));
                    }
                }
                None => {
                    order.push(*place);
                    path.pop();
                }
            }
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use hearth_core::RoomVersion;
    use ruma::owned_room_id;
    use serde_json::json;

    use super::*;

    /// A fixed, arbitrary order.
    fn shuffled(count: usize) -> Vec<usize> {
        let mut order: Vec<usize> = (0..count).collect();
        order.sort_by_key(|at| (at * 7_919) % 1_009);
        order
    }

    fn event(id: usize, auths: &[usize]) -> Event {
        let auths: Vec<String> = auths.iter().map(|auth| format!("${auth}")).collect();
        let json = json!({
            "auth_events": auths, "prev_events": [], "depth": 1, "origin_server_ts": 1, "content": {},
            "sender": "@a:b", "type": "x",
        });
        let id = EventId::parse(format!("${id}")).unwrap();
        let json = Bytes::from(json.to_string());
        Event::parse_stored(RoomVersion::V11, id, owned_room_id!("!r:b"), json).unwrap()
    }

    fn position(order: &[usize], events: &[Event], id: usize) -> usize {
        let id = format!("${id}");
        order.iter().position(|place| events[*place].event_id() == &*id).unwrap()
    }

    #[test]
    fn what_an_event_rests_on_comes_first_however_deep() {
        // A chain so long that recursion would not survive it, with short cuts.
        const COUNT: usize = 50_000;
        let edges = |id: usize| [id.checked_sub(1), id.checked_sub(500)].into_iter().flatten().collect::<Vec<_>>();
        let events: Vec<Event> = shuffled(COUNT).into_iter().map(|id| event(id, &edges(id))).collect();
        let order = in_order(&events, Event::auth_events);
        assert_eq!(order.len(), COUNT);
        let ids: Vec<usize> =
            order.iter().map(|place| events[*place].event_id().as_str()[1..].parse().unwrap()).collect();
        assert!(ids.iter().enumerate().all(|(at, id)| at == *id), "a chain has one order");
    }

    #[test]
    fn circles_and_strangers_do_no_harm() {
        let events = [event(1, &[2, 9]), event(2, &[3]), event(3, &[1]), event(4, &[1, 4])];
        let order = in_order(&events, Event::auth_events);
        assert_eq!(order.len(), 4);
        assert!(position(&order, &events, 1) < position(&order, &events, 4));
        assert!(position(&order, &events, 3) < position(&order, &events, 2));
    }
}
