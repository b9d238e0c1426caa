//! What must not be lost and is no event.

use super::*;
use crate::outbound::QueueError;

async fn queue(w: &World, server: &str, nth: usize) {
    let edu = to_raw_value(&json!({ "edu_type": "m.direct_to_device", "content": { "nth": nth } })).unwrap();
    w.outbound.queue_edu(server.try_into().unwrap(), &edu).await.unwrap();
}

fn numbers(sent: &[Sent]) -> Vec<u64> {
    sent.iter().flat_map(Sent::edus).map(|edu| edu["content"]["nth"].as_u64().unwrap()).collect()
}

#[tokio::test(start_paused = true)]
async fn they_arrive_in_order_and_are_then_gone() {
    let w = World::new().await;
    for nth in 0..120 {
        queue(&w, "far.test", nth).await;
    }
    w.settle().await;
    let sent = w.script.take("far.test");
    assert_eq!(numbers(&sent), (0..120).collect::<Vec<_>>());
    assert!(sent.iter().all(|sent| sent.edus().len() <= 100));
    let w = w.restarted().await;
    w.settle().await;
    assert!(w.script.take("far.test").is_empty());
}

#[tokio::test(start_paused = true)]
async fn they_survive_crashes_and_absence() {
    let w = World::new().await;
    w.script.fail("far.test");
    w.script.set("slow.test", Manner::Hangs);
    for nth in 0..3 {
        queue(&w, "far.test", nth).await;
        queue(&w, "slow.test", nth).await;
    }
    w.lose("far.test").await;
    queue(&w, "far.test", 3).await;
    let w = w.restarted().await;
    w.script.set("far.test", Manner::Takes);
    w.script.set("slow.test", Manner::Takes);
    w.settle().await;
    assert_eq!(numbers(&w.script.take("slow.test")), [0, 1, 2]);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    assert_eq!(numbers(&w.script.take("far.test")), [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn what_a_server_will_never_take_does_not_stop_the_rest() {
    let w = World::new().await;
    queue(&w, "far.test", 0).await;
    let refused =
        PeerError::Refused { status: 400, errcode: "M_BAD_JSON".into(), error: "what?".into(), body: Bytes::new() };
    w.script.set("far.test", Manner::Fails(refused));
    for _ in 0..super::super::queue::ABSENT_AFTER {
        w.settle().await;
        w.pass_ms(w.retry_in_ms("far.test")).await;
    }
    w.script.take("far.test");
    queue(&w, "far.test", 1).await;
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(super::super::backoff::PAUSE_MS_MAX).await;
    assert_eq!(numbers(&w.script.take("far.test")), [1]);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_queued_for_ourselves_nor_what_is_too_large() {
    let w = World::new().await;
    queue(&w, US, 0).await;
    w.settle().await;
    assert!(w.script.sent.lock().is_empty());
    let large = to_raw_value(&json!({ "edu_type": "x", "content": { "a": "b".repeat(70_000) } })).unwrap();
    let result = w.outbound.queue_edu("far.test".try_into().unwrap(), &large).await;
    assert!(matches!(result, Err(QueueError::TooLarge(_))));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_long_is_bounded_by_what_there_is_to_know() {
    let w = World::new().await;
    queue(&w, "far.test", 0).await;
    w.lose("far.test").await;
    let update = async |nth: usize| {
        let content = json!({ "user_id": format!("@u{}:{US}", nth % 3), "device_id": "D", "stream_id": nth });
        let edu = to_raw_value(&json!({ "edu_type": "m.device_list_update", "content": content })).unwrap();
        w.outbound.queue_edu("far.test".try_into().unwrap(), &edu).await.unwrap();
    };
    for nth in 0..2_500 {
        update(nth).await;
        if nth % 100 == 0 {
            queue(&w, "far.test", 1 + nth / 100).await;
        }
    }
    let waiting = super::super::rows::queued(&w.store, "far.test".try_into().unwrap(), 10_000).await.unwrap().len();
    assert!(waiting < 1_100, "{waiting}");
    w.script.set("far.test", Manner::Takes);
    w.pass_ms(w.retry_in_ms("far.test")).await;
    let sent = w.script.take("far.test");
    let edus = |kind: &str| -> Vec<Value> {
        let edus = sent.iter().flat_map(Sent::edus).filter(|edu| edu["edu_type"] == kind);
        edus.map(|edu| edu["content"].clone()).collect()
    };
    let messages: Vec<_> = edus("m.direct_to_device").iter().map(|edu| edu["nth"].as_u64().unwrap()).collect();
    assert_eq!(messages, (0..=25).collect::<Vec<_>>(), "no message is ever dropped");
    let updates: Vec<_> = edus("m.device_list_update").iter().map(|edu| edu["stream_id"].as_u64().unwrap()).collect();
    assert!(updates.is_sorted(), "in order");
    assert_eq!(updates[updates.len() - 3..], [2_497, 2_498, 2_499], "the newest of each user");
}
