//! Rules told as stories: JSON files beside this folder. Each says in a sentence what should happen in a room; each
//! step is an event that its author sends on top of what was allowed before, and whether the rules allow it.

use std::{fs, path::Path};

use hearth_core::{RoomVersion, redact};
use ruma::{OwnedUserId, server_name};
use serde::Deserialize;
use serde_json::Value;

use crate::room::{Act, Room, key_of};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Story {
    sentence: String,
    /// First and last room version it holds in.
    versions: (u8, u8),
    steps: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    sender: OwnedUserId,
    /// Short for an `m.room.member` event of this user…
    member: Option<OwnedUserId>,
    #[serde(rename = "type")]
    kind: Option<String>,
    state_key: Option<String>,
    #[serde(default)]
    content: Value,
    /// Index of the earlier step whose event a redaction names.
    redacts: Option<usize>,
    /// Absent: it must be allowed. Else a part of the reason why not.
    refused: Option<String>,
    /// What a redaction leaves of the content.
    redacted: Option<Value>,
    /// First and last room version of this step; it is left out in others.
    versions: Option<(u8, u8)>,
}

#[test]
fn every_story_holds_in_each_of_its_versions() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/stories");
    let mut told = 0;
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    for file in files {
        let stories: Vec<Story> = serde_json::from_slice(&fs::read(&file).unwrap())
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        for story in stories {
            for number in story.versions.0..=story.versions.1 {
                tell(&story, RoomVersion::from_number(number).unwrap());
                told += 1;
            }
        }
    }
    assert!(told > 100, "only {told} stories were found");
}

fn tell(story: &Story, version: RoomVersion) {
    let mut room = Room::empty(version);
    let mut events = Vec::new();
    for (index, step) in story.steps.iter().enumerate() {
        let place = format!("`{}`, version {version}, step {index}", story.sentence);
        let (from, to) = step.versions.unwrap_or((1, 12));
        if !(from..=to).contains(&version.number()) {
            events.push(None);
            continue;
        }
        let act = Act {
            sender: step.sender.clone(),
            kind: step.kind.clone().unwrap_or_else(|| "m.room.member".to_owned()),
            state_key: step.state_key.clone().or(step.member.as_ref().map(ToString::to_string)),
            content: filled_in(&step.content),
            redacts: step.redacts.and_then(|index| events[index].clone()),
        };
        let event = room.build(&act);
        events.push(Some(event.event_id().to_owned()));
        if let Some(left) = &step.redacted {
            let redacted: Value = redact(&event).content_as().unwrap();
            assert_eq!(&redacted, left, "{place}");
        }
        match (room.admit(&event), &step.refused) {
            (Ok(event), None) => room.append(event.into_event()),
            (Ok(_), Some(why)) => panic!("{place}: allowed, should be refused: {why}"),
            (Err(reason), None) => panic!("{place}: refused: {reason}"),
            (Err(reason), Some(why)) => assert!(reason.as_str().contains(why.as_str()), "{place}: {reason}"),
        }
    }
}

/// The identity server `id` of third-party invites: its key stands for `$ID_KEY`, its signature for
/// `"signatures": "$ID_SIGNATURE"`.
fn filled_in(content: &Value) -> Value {
    let server = server_name!("id");
    let key = key_of(server);
    match content {
        Value::String(text) if text == "$ID_KEY" => key.public_key_base64().into(),
        Value::Array(items) => items.iter().map(filled_in).collect(),
        Value::Object(entries) if entries.get("signatures").is_some_and(|value| value == "$ID_SIGNATURE") => {
            let mut entries = entries.clone();
            entries.remove("signatures");
            let signed = key.sign_json(server, Value::Object(entries).to_string().as_bytes()).unwrap();
            serde_json::from_str(&signed).unwrap()
        }
        Value::Object(entries) => entries.iter().map(|(key, value)| (key.clone(), filled_in(value))).collect(),
        Value::Null => Value::Object(serde_json::Map::new()),
        other => other.clone(),
    }
}
