//! Servers that do not take a transaction for what is in it.

use hearth_users::ReceiptKind;

use super::*;

const FAR: &str = "far.test";

/// An EDU of about so many bytes.
async fn queue(w: &World, nth: usize, bytes: usize) {
    let content = json!({ "nth": nth, "text": "x".repeat(bytes) });
    let edu = to_raw_value(&json!({ "edu_type": "m.direct_to_device", "content": content })).unwrap();
    w.outbound.queue_edu(FAR.try_into().unwrap(), &edu).await.unwrap();
}

/// What has arrived: all that was sent in transactions that were taken.
fn arrived(w: &World, judge: fn(&[u8]) -> Option<u16>) -> Vec<Sent> {
    let mut sent = w.script.take(FAR);
    sent.retain(|sent| judge(&serde_json::to_vec(&sent.body).unwrap()).is_none());
    sent
}

fn numbers(sent: &[Sent]) -> Vec<u64> {
    sent.iter().flat_map(Sent::edus).filter_map(|edu| edu["content"]["nth"].as_u64()).collect()
}

impl World {
    /// Lets a server that refused something be tried until it has all, or for so long, in milliseconds.
    async fn retry(&self, mut for_ms: u64) {
        while self.failures_or_none(FAR) > 0 {
            let pause = self.retry_in_ms(FAR).max(1);
            for_ms = for_ms.checked_sub(pause).expect("it has everything by then");
            self.pass_ms(pause).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_transaction_is_not_larger_than_web_servers_take() {
    fn judge(body: &[u8]) -> Option<u16> {
        (body.len() > 1 << 20).then_some(413)
    }
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    w.settle().await;
    w.script.forget(&[FAR]);
    w.script.fail(FAR);
    queue(&w, 0, 10).await;
    w.settle().await;
    for nth in 1..50 {
        queue(&w, nth, 62_000).await;
    }
    for nth in 0..40 {
        w.say(&room, "@alice:hearth.test", &format!("{nth} {}", "x".repeat(50_000))).await;
    }
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Judges(judge));
    w.pass_ms(w.retry_in_ms(FAR)).await;
    let sent = w.script.take(FAR);
    assert!(sent.iter().all(|sent| judge(&serde_json::to_vec(&sent.body).unwrap()).is_none()));
    assert_eq!(numbers(&sent), (0..50).collect::<Vec<_>>());
    assert_eq!(sent.iter().flat_map(Sent::texts).count(), 40);
    assert!(sent[1].edus().len() > 5 && sent[1].texts().len() > 5, "neither keeps the other waiting");
}

#[tokio::test(start_paused = true)]
async fn what_is_too_large_for_a_server_is_sent_in_smaller_parts() {
    fn judge(body: &[u8]) -> Option<u16> {
        (body.len() > 200_000).then_some(413)
    }
    let w = World::new().await;
    w.script.fail(FAR);
    for nth in 0..50 {
        queue(&w, nth, 60_000).await;
    }
    w.settle().await;
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Judges(judge));
    w.pass_ms(w.retry_in_ms(FAR)).await;
    w.retry(600_000).await;
    assert_eq!(numbers(&arrived(&w, judge)), (0..50).collect::<Vec<_>>());
    assert!(super::super::rows::queued_servers(&w.store).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn only_the_item_that_a_server_does_not_take_is_given_up() {
    fn judge(body: &[u8]) -> Option<u16> {
        let body: Value = serde_json::from_slice(body).unwrap();
        let is_bad = |edu: &Value| edu["content"]["nth"] == 7;
        body["edus"].as_array().is_some_and(|edus| edus.iter().any(is_bad)).then_some(400)
    }
    let w = World::new().await;
    w.script.fail(FAR);
    for nth in 0..50 {
        queue(&w, nth, 10).await;
    }
    w.settle().await;
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Judges(judge));
    w.pass_ms(w.retry_in_ms(FAR)).await;
    w.retry(600_000).await;
    let mut expected: Vec<_> = (0..50).collect();
    expected.remove(7);
    assert_eq!(numbers(&arrived(&w, judge)), expected);
    assert!(super::super::rows::queued_servers(&w.store).await.unwrap().is_empty());
    // It is trusted with many again.
    w.script.fail(FAR);
    for nth in 50..60 {
        queue(&w, nth, 10).await;
    }
    w.settle().await;
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Judges(judge));
    w.pass_ms(w.retry_in_ms(FAR)).await;
    let sent = w.script.take(FAR);
    assert!(sent.len() <= 2, "{}", sent.len());
}

#[tokio::test(start_paused = true)]
async fn the_events_beside_one_that_a_server_does_not_take_arrive_in_order_and_so_does_what_was_read() {
    fn judge(body: &[u8]) -> Option<u16> {
        std::str::from_utf8(body).unwrap().contains("text 7").then_some(422)
    }
    let w = World::new().await;
    let room = w.room(&["@bob:far.test"]).await;
    let read = w.say(&room, "@bob:far.test", "read me").await;
    w.settle().await;
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Judges(judge));
    for text in texts(0..20) {
        w.say(&room, "@alice:hearth.test", &text).await;
    }
    let alice = user("@alice:hearth.test");
    w.users.set_receipt(&alice, &room, ReceiptKind::Public, None, &read).await.unwrap();
    w.settle().await;
    w.retry(600_000).await;
    let sent = arrived(&w, judge);
    let mut expected = texts(0..20);
    expected.remove(7);
    assert_eq!(sent.iter().flat_map(Sent::texts).collect::<Vec<_>>(), expected);
    let receipts = sent.iter().flat_map(Sent::edus).filter(|edu| edu["edu_type"] == "m.receipt").count();
    assert_eq!(receipts, 1);
}

#[tokio::test(start_paused = true)]
async fn who_was_away_and_does_not_take_an_event_gets_those_of_the_other_rooms() {
    fn judge(body: &[u8]) -> Option<u16> {
        std::str::from_utf8(body).unwrap().contains("in 3").then_some(400)
    }
    let w = World::new().await;
    let mut rooms = Vec::new();
    for _ in 0..8 {
        rooms.push(w.room(&["@bob:far.test"]).await);
    }
    w.settle().await;
    w.say(&rooms[0], "@alice:hearth.test", "lost").await;
    w.lose(FAR).await;
    for (nth, room) in rooms.iter().enumerate() {
        w.say(room, "@alice:hearth.test", &format!("in {nth}")).await;
    }
    w.settle().await;
    w.script.set(FAR, Manner::Judges(judge));
    w.pass_ms(w.retry_in_ms(FAR)).await;
    w.retry(86_400_000).await;
    let mut arrived: Vec<_> = arrived(&w, judge).iter().flat_map(Sent::texts).collect();
    arrived.sort();
    arrived.dedup();
    assert_eq!(arrived, ["in 0", "in 1", "in 2", "in 4", "in 5", "in 6", "in 7"]);
}

#[tokio::test(start_paused = true)]
async fn a_web_server_out_of_order_for_a_minute_costs_nothing() {
    let w = World::new().await;
    for nth in 0..5 {
        queue(&w, nth, 10).await;
    }
    w.script.set(FAR, Manner::Judges(|_| Some(400)));
    w.settle().await;
    w.pass_ms(w.retry_in_ms(FAR)).await;
    w.pass_ms(w.retry_in_ms(FAR)).await;
    w.script.forget(&[FAR]);
    w.script.set(FAR, Manner::Takes);
    w.pass_ms(w.retry_in_ms(FAR)).await;
    let mut arrived = numbers(&w.script.take(FAR));
    arrived.dedup();
    assert_eq!(arrived, [0, 1, 2, 3, 4]);
}
