//! What may be lost: typing, receipts, presence. Newer news takes the place of older news of the same thing, so what
//! waits for a destination is bounded by what there is to know, and by numbers.

use std::{
    collections::{BTreeMap, VecDeque, btree_map::Entry},
    sync::Arc,
};

use hearth_store::RoomNumber;
use ruma::{OwnedEventId, OwnedRoomId, OwnedUserId};
use serde_json::{Map, Value, json};

/// People whose typing waits for one destination. More than people can follow.
const TYPING_MAX: usize = 100;

/// Receipts that wait for one destination.
const RECEIPTS_MAX: usize = 1_000;

/// Presences that wait for one destination.
const PRESENCE_MAX: usize = 500;

/// Receipts, or presences, in one EDU: it stays below the size of an event.
const PER_EDU_MAX: usize = 200;

/// Somebody began or ended typing.
#[derive(Debug)]
pub(super) struct TypingNews {
    pub(super) room: RoomNumber,
    pub(super) room_id: OwnedRoomId,
    pub(super) user_id: OwnedUserId,
    pub(super) typing: bool,
}

/// A public receipt.
#[derive(Debug)]
pub(super) struct ReceiptNews {
    pub(super) room_id: OwnedRoomId,
    pub(super) user_id: OwnedUserId,
    /// Empty: unthreaded.
    pub(super) thread: String,
    pub(super) event_id: OwnedEventId,
    pub(super) ts_ms: u64,
}

/// Somebody's presence.
#[derive(Debug)]
pub(super) struct PresenceNews {
    pub(super) user_id: OwnedUserId,
    /// An item of `push`.
    pub(super) item: Value,
}

/// One of them, shared by all destinations.
#[derive(Clone, Debug)]
pub(super) enum News {
    Typing(Arc<TypingNews>),
    Receipt(Arc<ReceiptNews>),
    Presence(Arc<PresenceNews>),
}

/// A receipt's place: of several in one room by one user, each goes into an EDU of its own.
type ReceiptPlace = (OwnedRoomId, OwnedUserId);

/// What waits for one destination.
#[derive(Debug, Default)]
pub(super) struct Ephemeral {
    typing: BTreeMap<(RoomNumber, OwnedUserId), Arc<TypingNews>>,
    /// The receipts of a place differ in their thread.
    receipts: BTreeMap<ReceiptPlace, Vec<Arc<ReceiptNews>>>,
    receipts_count: usize,
    presence: BTreeMap<OwnedUserId, Arc<PresenceNews>>,
    /// EDUs that were made already and are to be sent once more, before all others.
    made: VecDeque<String>,
}

/// An EDU, as JSON.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Edu {
    pub(super) json: String,
    /// It is old news by the time a server comes back that fails.
    pub(super) is_fleeting: bool,
}

impl Ephemeral {
    /// Adds news, unless there is no room for more.
    pub(super) fn push(&mut self, news: News) {
        match news {
            News::Typing(news) => {
                put(&mut self.typing, (news.room, news.user_id.clone()), news, TYPING_MAX);
            }
            News::Presence(news) => put(&mut self.presence, news.user_id.clone(), news, PRESENCE_MAX),
            News::Receipt(news) => self.push_receipt(news),
        }
    }

    /// Adds a receipt that was read anew, unless one of its place waits.
    pub(super) fn push_missed(&mut self, news: Arc<ReceiptNews>) {
        let place = (news.room_id.clone(), news.user_id.clone());
        let known = self.receipts.get(&place);
        if !known.is_some_and(|known| known.iter().any(|known| known.thread == news.thread)) {
            self.push_receipt(news);
        }
    }

    fn push_receipt(&mut self, news: Arc<ReceiptNews>) {
        let known = self.receipts.entry((news.room_id.clone(), news.user_id.clone())).or_default();
        match known.iter_mut().find(|known| known.thread == news.thread) {
            Some(known) => *known = news,
            None if self.receipts_count < RECEIPTS_MAX => {
                known.push(news);
                self.receipts_count += 1;
            }
            None => self.receipts.retain(|_, known| !known.is_empty()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How much waits.
    pub(super) fn len(&self) -> usize {
        self.typing.len() + self.receipts_count + self.presence.len() + self.made.len()
    }

    /// Forgets what is old news by the time a server comes back.
    pub(super) fn forget_fleeting(&mut self) {
        self.typing.clear();
        self.presence.clear();
    }

    /// EDUs that have not arrived come first again.
    pub(super) fn put_back(&mut self, edus: impl DoubleEndedIterator<Item = String>) {
        edus.rev().for_each(|edu| self.made.push_front(edu));
    }

    /// Takes out an EDU.
    pub(super) fn take(&mut self) -> Option<Edu> {
        let (json, is_fleeting) = if let Some(made) = self.made.pop_front() {
            (made, false)
        } else if let Some((_, news)) = self.typing.pop_first() {
            let TypingNews { room_id, user_id, typing, .. } = &*news;
            (edu("m.typing", &json!({ "room_id": room_id, "user_id": user_id, "typing": typing })), true)
        } else if !self.receipts.is_empty() {
            (edu("m.receipt", &self.take_receipts()), false)
        } else if !self.presence.is_empty() {
            let count = self.presence.len().min(PER_EDU_MAX);
            let items = std::iter::from_fn(|| self.presence.pop_first()).take(count);
            let push: Vec<Value> = items.map(|(_, news)| news.item.clone()).collect();
            (edu("m.presence", &json!({ "push": push })), true)
        } else {
            return None;
        };
        Some(Edu { json, is_fleeting })
    }

    /// The content of one `m.receipt`: one receipt of each place.
    fn take_receipts(&mut self) -> Value {
        let mut rooms: BTreeMap<OwnedRoomId, Map<String, Value>> = BTreeMap::new();
        let mut taken = 0;
        self.receipts.retain(|(room_id, user_id), waiting| {
            if taken < PER_EDU_MAX
                && let Some(news) = waiting.pop()
            {
                taken += 1;
                let mut data = json!({ "ts": news.ts_ms });
                if !news.thread.is_empty() {
                    data["thread_id"] = news.thread.clone().into();
                }
                let receipt = json!({ "event_ids": [news.event_id], "data": data });
                rooms.entry(room_id.clone()).or_default().insert(user_id.to_string(), receipt);
            }
            !waiting.is_empty()
        });
        self.receipts_count -= taken;
        let rooms = rooms.into_iter().map(|(room_id, users)| (room_id.to_string(), json!({ "m.read": users })));
        Value::Object(rooms.collect())
    }
}

/// Sets a value, unless it were one too many.
fn put<K: Ord, V>(map: &mut BTreeMap<K, V>, key: K, value: V, entries_max: usize) {
    let full = map.len() >= entries_max;
    match map.entry(key) {
        Entry::Occupied(mut known) => drop(known.insert(value)),
        Entry::Vacant(_) if full => {}
        Entry::Vacant(vacant) => drop(vacant.insert(value)),
    }
}

fn edu(kind: &str, content: &Value) -> String {
    json!({ "edu_type": kind, "content": content }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(room: &str, user: &str, thread: &str, event: &str) -> News {
        News::Receipt(Arc::new(ReceiptNews {
            room_id: room.try_into().unwrap(),
            user_id: user.try_into().unwrap(),
            thread: thread.to_owned(),
            event_id: event.try_into().unwrap(),
            ts_ms: 7,
        }))
    }

    fn taken(waiting: &mut Ephemeral, edus_max: usize) -> Vec<Value> {
        let edus = std::iter::from_fn(|| waiting.take()).take(edus_max);
        edus.map(|edu| serde_json::from_str(&edu.json).unwrap()).collect()
    }

    #[test]
    fn receipts_are_gathered_and_those_of_one_user_in_several_threads_parted() {
        let mut waiting = Ephemeral::default();
        waiting.push(receipt("!a:x", "@u:x", "", "$1"));
        waiting.push(receipt("!a:x", "@u:x", "", "$2"));
        waiting.push(receipt("!a:x", "@u:x", "main", "$3"));
        waiting.push(receipt("!b:x", "@v:x", "", "$4"));
        assert_eq!(waiting.len(), 3);
        let edus = taken(&mut waiting, 100);
        assert_eq!(edus.len(), 2, "{edus:?}");
        assert_eq!(edus[0]["content"]["!b:x"]["m.read"]["@v:x"]["event_ids"], json!(["$4"]));
        let both: Vec<_> = edus.iter().map(|edu| edu["content"]["!a:x"]["m.read"]["@u:x"].clone()).collect();
        assert!(both.contains(&json!({ "event_ids": ["$2"], "data": { "ts": 7 } })), "the newer one: {both:?}");
        assert!(both.contains(&json!({ "event_ids": ["$3"], "data": { "ts": 7, "thread_id": "main" } })));
        assert!(waiting.is_empty());
    }

    #[test]
    fn what_waits_is_bounded_and_goes_out_in_parts() {
        let mut waiting = Ephemeral::default();
        for user in 0..2_000 {
            waiting.push(receipt("!a:x", &format!("@u{user}:x"), "", "$1"));
        }
        assert_eq!(waiting.len(), RECEIPTS_MAX);
        assert_eq!(waiting.receipts.len(), RECEIPTS_MAX, "no empty places are left behind");
        assert_eq!(taken(&mut waiting, 2).len(), 2);
        assert_eq!(waiting.len(), RECEIPTS_MAX - 2 * PER_EDU_MAX);
    }

    #[test]
    fn the_last_word_on_typing_counts() {
        let news = |typing| {
            News::Typing(Arc::new(TypingNews {
                room: RoomNumber(1),
                room_id: "!a:x".try_into().unwrap(),
                user_id: "@u:x".try_into().unwrap(),
                typing,
            }))
        };
        let mut waiting = Ephemeral::default();
        waiting.push(news(true));
        waiting.push(news(false));
        let edus = taken(&mut waiting, 100);
        assert_eq!(edus.len(), 1);
        assert_eq!(edus[0]["content"], json!({ "room_id": "!a:x", "user_id": "@u:x", "typing": false }));
    }
}
