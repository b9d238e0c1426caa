//! Room versions: which rules a room lives by. [Room versions](https://spec.matrix.org/v1.19/rooms/).

use std::fmt;

use ruma::{
    RoomVersionId,
    room_version_rules::{EventIdFormatVersion, RoomVersionRules, StateResolutionVersion},
};

/// A room version that this server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
#[expect(missing_docs, reason = "the numbers speak for themselves")]
pub enum RoomVersion {
    V1 = 1,
    V2,
    V3,
    V4,
    V5,
    V6,
    V7,
    V8,
    V9,
    V10,
    V11,
    V12,
}

static RULES: [RoomVersionRules; 12] = [
    RoomVersionRules::V1,
    RoomVersionRules::V2,
    RoomVersionRules::V3,
    RoomVersionRules::V4,
    RoomVersionRules::V5,
    RoomVersionRules::V6,
    RoomVersionRules::V7,
    RoomVersionRules::V8,
    RoomVersionRules::V9,
    RoomVersionRules::V10,
    RoomVersionRules::V11,
    RoomVersionRules::V12,
];

impl RoomVersion {
    /// Every version, oldest first.
    pub const ALL: [Self; 12] = [
        Self::V1,
        Self::V2,
        Self::V3,
        Self::V4,
        Self::V5,
        Self::V6,
        Self::V7,
        Self::V8,
        Self::V9,
        Self::V10,
        Self::V11,
        Self::V12,
    ];

    /// What new rooms get unless asked otherwise.
    pub const DEFAULT: Self = Self::V12;

    /// The version of this name, if we speak it.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.as_str() == name)
    }

    /// The version with this number, 1 to 12: the compact form for storage.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// 1 to 12.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::V1 => "1",
            Self::V2 => "2",
            Self::V3 => "3",
            Self::V4 => "4",
            Self::V5 => "5",
            Self::V6 => "6",
            Self::V7 => "7",
            Self::V8 => "8",
            Self::V9 => "9",
            Self::V10 => "10",
            Self::V11 => "11",
            Self::V12 => "12",
        }
    }

    /// The same version in ruma's vocabulary.
    pub fn id(self) -> RoomVersionId {
        match self {
            Self::V1 => RoomVersionId::V1,
            Self::V2 => RoomVersionId::V2,
            Self::V3 => RoomVersionId::V3,
            Self::V4 => RoomVersionId::V4,
            Self::V5 => RoomVersionId::V5,
            Self::V6 => RoomVersionId::V6,
            Self::V7 => RoomVersionId::V7,
            Self::V8 => RoomVersionId::V8,
            Self::V9 => RoomVersionId::V9,
            Self::V10 => RoomVersionId::V10,
            Self::V11 => RoomVersionId::V11,
            Self::V12 => RoomVersionId::V12,
        }
    }

    /// What this version changes.
    pub fn rules(self) -> &'static RoomVersionRules {
        &RULES[usize::from(self.number()) - 1]
    }

    /// Whether an event's id is part of the event, chosen by the sender (versions 1 and 2).
    pub fn has_chosen_event_ids(self) -> bool {
        self.rules().event_id_format == EventIdFormatVersion::V1
    }

    /// Whether a state that is resolved with one of those it was made of may become another (version 1): what is in conflict
    /// does not count when events are checked, and then the oldest wins.
    /// [State resolution](https://spec.matrix.org/v1.19/rooms/v1/#state-resolution).
    pub fn resolves_to_older_state(self) -> bool {
        !matches!(self.rules().state_res, StateResolutionVersion::V2(_))
    }

    /// Whether the room id is the create event's reference hash (from version 12).
    pub fn has_hashed_room_id(self) -> bool {
        self.rules().authorization.room_create_event_id_as_room_id
    }

    /// Whether a redaction names its target in `content` (from version 11) instead of at top level.
    pub fn redacts_in_content(self) -> bool {
        self.rules().redaction.content_field_redacts
    }

    /// Whether received events must be canonical JSON: no floats, no large integers (from version 6).
    pub fn is_strict_json(self) -> bool {
        self.rules().authorization.strict_canonical_json
    }
}

impl fmt::Display for RoomVersion {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}
