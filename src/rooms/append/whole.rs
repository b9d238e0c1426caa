//! A state that is given as a whole.

use std::collections::HashMap;

use hearth_store::{EventNumber, StateKeyNumber, StateVersion, tables::EventFlags};

use super::{Group, PlaceError};
use crate::cache::RoomCache;

impl Group<'_> {
    /// The state that consists of these events, as far as they are state events and not rejected; of several for one
    /// pair the first counts. Made as a difference from the current state, which is mostly near.
    pub(crate) async fn whole_state(
        &mut self,
        cache: &mut RoomCache,
        events: &[EventNumber],
    ) -> Result<StateVersion, PlaceError> {
        let current: HashMap<EventNumber, StateKeyNumber> =
            self.states.all(cache.head.state).await?.into_iter().map(|(pair, event)| (event, pair)).collect();
        let mut whole: HashMap<StateKeyNumber, EventNumber> = HashMap::with_capacity(events.len());
        for number in events {
            let pair = match current.get(number) {
                Some(pair) => *pair,
                None => {
                    let known = self.known(cache, *number).await?;
                    let Some((kind, state_key)) = known.event.state_pair().filter(|_| !known.is(EventFlags::REJECTED))
                    else {
                        continue;
                    };
                    self.state_key(cache, kind, state_key).await?
                }
            };
            whole.entry(pair).or_insert(*number);
        }
        let gone = current.values().filter(|pair| !whole.contains_key(pair)).map(|pair| (*pair, None));
        let set = whole.iter().filter(|(_, event)| !current.contains_key(event));
        let changes: Vec<_> = gone.chain(set.map(|(pair, event)| (*pair, Some(*event)))).collect();
        let new = cache.head.next_state;
        let version = self.states.apply_or_find(cache.head.state, &changes, new).await?;
        if version == new {
            cache.is_ahead = true;
            cache.head.next_state = new.next();
        }
        Ok(version)
    }
}
