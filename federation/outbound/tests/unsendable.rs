//! What other servers could not check our signature of.

use super::*;

const FAR: &str = "far.test";

async fn queue(w: &World, content: &str) {
    let edu = format!(r#"{{"edu_type":"m.direct_to_device","content":{content}}}"#);
    let edu = serde_json::value::RawValue::from_string(edu).unwrap();
    w.outbound.queue_edu(FAR.try_into().unwrap(), &edu).await.unwrap();
}

impl World {
    /// The event has this in its content, as one that another server made could.
    async fn put_number(&self, room_id: &RoomId, event_id: &EventId, number: &str) {
        let room = self.number(room_id).await;
        let stored = self.store.event_by_id(room, event_id).await.unwrap().unwrap();
        let json = stored.event.json_str().replacen(r#""msgtype""#, &format!(r#""a":{number},"msgtype""#), 1);
        assert_ne!(json, stored.event.json_str());
        let mut write = Write::new(room.partition());
        write.rewrite_event(room, stored.number, &stored.header, json.as_bytes());
        self.store.commit(write).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn numbers_that_cannot_be_signed_stop_nothing_else() {
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.forget(&[FAR]);
    // While nothing is sent, so that all would be in one transaction.
    w.script.fail(FAR);
    w.say(&room, "@alice:hearth.test", "hello").await;
    w.settle().await;
    for content in [r#"{"x":1.10}"#, r#"{"x":1e-7}"#, r#"{"x":-0}"#, r#"{"x":1E5}"#, r#"{"x":"good"}"#] {
        queue(&w, content).await;
    }
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Takes);
    w.pass_ms(w.retry_in_ms(FAR)).await;
    let sent = w.script.take(FAR);
    let edus: Vec<_> = sent.iter().flat_map(Sent::edus).map(|edu| edu["content"]["x"].clone()).collect();
    assert_eq!(edus, [json!(0), json!(100_000), json!("good")], "integers are spelt out, the others dropped");
    assert_eq!(sent.iter().flat_map(Sent::texts).collect::<Vec<_>>(), ["hello"]);
    assert!(super::super::rows::queued_servers(&w.store).await.unwrap().is_empty(), "nothing is left");
    assert_eq!(w.standing(FAR), Standing::Healthy);
}

#[tokio::test(start_paused = true)]
async fn rows_of_which_none_can_be_sent_leave_those_behind_them() {
    let w = World::new().await;
    w.script.fail(FAR);
    queue(&w, r#"{"x":"first"}"#).await;
    w.settle().await;
    for _ in 0..super::super::transaction::PDUS_MAX {
        queue(&w, r#"{"x":0.5}"#).await;
    }
    queue(&w, r#"{"x":"last"}"#).await;
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Takes);
    w.pass_ms(w.retry_in_ms(FAR)).await;
    let sent = w.script.take(FAR);
    let edus: Vec<_> = sent.iter().flat_map(Sent::edus).map(|edu| edu["content"]["x"].clone()).collect();
    assert_eq!(edus, ["first", "last"]);
    assert!(super::super::rows::queued_servers(&w.store).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_event_of_an_old_room_goes_as_it_is_or_not_at_all() {
    let w = World::new().await;
    let room = w.room_of(Some("5"), &["@bob:far.test"]).await;
    w.settle().await;
    w.script.forget(&[FAR]);
    for number in ["1.10", "-0", "1e5", "3"] {
        let event = w.say(&room, "@alice:hearth.test", number).await;
        w.put_number(&room, &event, number).await;
    }
    w.settle().await;
    let sent = w.script.take(FAR);
    assert_eq!(sent.iter().flat_map(Sent::texts).collect::<Vec<_>>(), ["3"]);
    assert_eq!(sent[0].pdus()[0]["content"]["a"], 3);

    // Who was away is not kept from the other rooms by one event.
    let other = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.say(&other, "@alice:hearth.test", "lost").await;
    w.lose(FAR).await;
    let event = w.say(&room, "@alice:hearth.test", "bad").await;
    w.put_number(&room, &event, "0.5").await;
    w.say(&other, "@alice:hearth.test", "good").await;
    w.settle().await;
    w.script.set(FAR, Manner::Takes);
    w.pass_ms(w.retry_in_ms(FAR)).await;
    assert_eq!(w.script.texts(FAR), ["good"]);
    assert_eq!(w.standing(FAR), Standing::Healthy);
}
