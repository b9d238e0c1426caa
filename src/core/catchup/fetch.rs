//! What to ask for next, and when to give up.

use ruma::OwnedEventId;

use super::{
    CHAINS_MAX, Catchup, MISSING_MAX, MISSING_MIN, ROUNDS_MAX, SENT_STATES_MAX, STATES_MAX, State, Step, Wanted,
};

/// Working out what to ask for.
impl Catchup {
    pub(super) fn fetch(&mut self) -> Option<Step> {
        self.fetch_missing()
            .or_else(|| self.fetch_auth())
            .or_else(|| self.fetch_prevs_first())
            .or_else(|| self.fetch_state())
            .or_else(|| self.fetch_prevs())
            .or_else(|| self.fetch_events())
    }

    fn by_arrival(&self) -> Vec<OwnedEventId> {
        let mut ids: Vec<_> = self.wanted.iter().map(|(id, wanted)| (wanted.arrived, id)).collect();
        ids.sort_unstable();
        ids.into_iter().map(|(_, id)| id.clone()).collect()
    }

    fn fetch_missing(&mut self) -> Option<Step> {
        if self.rounds >= ROUNDS_MAX {
            return None;
        }
        let lacks = |id: &OwnedEventId| {
            let wanted = &self.wanted[id];
            matches!(wanted.state, State::NotAsked) && self.lacks_prevs(wanted)
        };
        let latest: Vec<OwnedEventId> = self.by_arrival().into_iter().filter(lacks).take(MISSING_MAX).collect();
        if latest.is_empty() {
            return None;
        }
        let limit = (MISSING_MIN + self.rounds * MISSING_MIN / 2).min(MISSING_MAX);
        self.rounds += 1;
        Some(Step::FetchMissing { latest, limit })
    }

    fn fetch_auth(&mut self) -> Option<Step> {
        if self.chains.len() >= CHAINS_MAX {
            return None;
        }
        let lacks = |id: &&OwnedEventId| {
            let event = &self.wanted[*id].event;
            let through_rest = event.event().auth_events().iter().filter_map(|auth| self.rest.get(auth));
            let lacks = self.lacks_auths(event) || through_rest.into_iter().any(|rest| self.lacks_auths(&rest.event));
            lacks && !self.chains.contains(*id)
        };
        let ids = self.by_arrival();
        let of = ids.iter().find(lacks)?.clone();
        self.chains.insert(of.clone());
        let auths = self.wanted[&of].event.event().auth_events().iter();
        let missing = auths.filter(|id| self.is_missing(id)).cloned().collect();
        Some(Step::FetchAuth { of, missing })
    }

    fn fetch_state(&mut self) -> Option<Step> {
        let (is_left, is_left_for_sent) = (self.states < STATES_MAX, self.sent_states < SENT_STATES_MAX);
        let lacks = |id: &OwnedEventId| {
            let wanted = &self.wanted[id];
            let may_ask = is_left || is_left_for_sent && !wanted.is_asked_for;
            let is_open = matches!(wanted.state, State::NotAsked) && self.lacks_prevs(wanted);
            may_ask && is_open && !self.lacks_auths(&wanted.event)
        };
        let id = self.by_arrival().into_iter().find(lacks)?;
        if is_left {
            self.states += 1
        } else {
            self.sent_states += 1
        }
        self.wanted.get_mut(&id)?.state = State::Refused;
        Some(Step::FetchState(id))
    }

    /// Who was not told the state before an event may be told that before those just before it. Not for what was sent: a
    /// server that gives neither what comes before that nor the state there has nothing to go by.
    fn fetch_prevs(&mut self) -> Option<Step> {
        let lacks = |id: &OwnedEventId| {
            let wanted = &self.wanted[id];
            let is_open = matches!(wanted.state, State::Refused) && wanted.is_asked_for && !wanted.asked_prevs;
            is_open && self.lacks_prevs(wanted) && !self.lacks_auths(&wanted.event)
        };
        let at = self.by_arrival().into_iter().find(lacks)?;
        self.ask_prevs(at).or_else(|| self.fetch_prevs())
    }

    /// Of an event of which some previous events are here, those states count besides whatever is told. In a room of
    /// version 1 the state before it, resolved with one of them once more, may become another: there the states after the
    /// others are asked for first.
    fn fetch_prevs_first(&mut self) -> Option<Step> {
        if !self.asks_prevs_first {
            return None;
        }
        let lacks = |id: &OwnedEventId| {
            let wanted = &self.wanted[id];
            let has_some = wanted.event.event().prev_events().iter().any(|prev| !self.is_missing_prev(prev));
            let is_open = matches!(wanted.state, State::NotAsked) && has_some && !wanted.asked_prevs;
            is_open && self.lacks_prevs(wanted) && !self.lacks_auths(&wanted.event)
        };
        let at = self.by_arrival().into_iter().find(lacks)?;
        self.ask_prevs(at).or_else(|| self.fetch_prevs_first())
    }

    /// Within the bound.
    fn ask_prevs(&mut self, at: OwnedEventId) -> Option<Step> {
        let prevs: Vec<OwnedEventId> = self.missing_prevs(&self.wanted[&at]).cloned().collect();
        self.wanted.get_mut(&at)?.asked_prevs = true;
        self.prevs += prevs.len();
        (self.prevs <= STATES_MAX).then_some(Step::FetchPrevs { at, prevs })
    }

    fn fetch_events(&mut self) -> Option<Step> {
        for at in self.by_arrival() {
            let State::Ids { all, is_fetched: false, .. } = &self.wanted[&at].state else { continue };
            let ids: Vec<OwnedEventId> = all.iter().filter(|id| self.is_missing(id)).cloned().collect();
            if let Some(Wanted { state: State::Ids { is_fetched, .. }, .. }) = self.wanted.get_mut(&at) {
                *is_fetched = true;
            }
            if !ids.is_empty() {
                return Some(Step::FetchEvents { at, ids });
            }
        }
        None
    }

    /// Gives up what nothing can be done about. What rests on it may yet go on without. `false`: nothing is left.
    pub(super) fn give_up(&mut self) -> bool {
        let reason = |wanted: &Wanted| {
            if self.lacks_auths(&wanted.event) {
                Some("an auth event is missing")
            } else if self.lacks_prevs(wanted) && !matches!(wanted.state, State::Ids { .. }) {
                Some("a previous event is missing, and the state before it")
            } else {
                None
            }
        };
        let mut stuck: Vec<(OwnedEventId, &'static str)> =
            self.wanted.iter().filter_map(|(id, wanted)| Some((id.clone(), reason(wanted)?))).collect();
        if stuck.is_empty() {
            // What remains rests on itself, or on something incomplete.
            stuck.extend(self.wanted.keys().map(|id| (id.clone(), "what it rests on is not complete")));
        }
        for (id, reason) in &stuck {
            self.wanted.remove(id);
            self.failed.insert(id.clone(), reason);
        }
        !stuck.is_empty()
    }
}
