//! What users report to the administrators.
//! [Reporting content](https://spec.matrix.org/v1.19/client-server-api/#reporting-content).

use hearth_ports::Table;
use hearth_store::{
    LoadError, Write,
    tables::{Membership, ReportRow, report_key, report_partition},
};
use ruma::{EventId, RoomId, UserId};

use crate::rooms::Rooms;

/// The longest reason that is kept, in bytes; what is longer is no longer read by anybody.
const REASON_BYTES_MAX: usize = 4_096;

/// Why a report was not taken.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReportError {
    /// There is no such room or event for this user (`M_NOT_FOUND`).
    #[error("not found")]
    NotFound,
    /// Our fault; the text is for the log.
    #[error("unavailable: {0}")]
    Unavailable(String),
}

impl From<LoadError> for ReportError {
    fn from(error: LoadError) -> Self {
        Self::Unavailable(error.to_string())
    }
}

impl Rooms {
    /// Keeps a report of a room.
    pub async fn report_room(&self, reporter: &UserId, room_id: &RoomId, reason: &str) -> Result<(), ReportError> {
        // "Clients may report rooms that they are not in": an invite, or a link.
        self.writer.store.room_number(room_id).await?.ok_or(ReportError::NotFound)?;
        let row = ReportRow { room_id: Some(room_id.to_string()), ..self.report(reporter, reason) };
        self.keep(row).await
    }

    /// Keeps a report of an event. The reporter must be in its room.
    pub async fn report_event(
        &self,
        reporter: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
        reason: &str,
        score: Option<i16>,
    ) -> Result<(), ReportError> {
        if self.membership(reporter, room_id).await? != Some(Membership::Join) {
            return Err(ReportError::NotFound);
        }
        let store = &self.writer.store;
        let room = store.room_number(room_id).await?.ok_or(ReportError::NotFound)?;
        store.event_number(room, event_id).await?.ok_or(ReportError::NotFound)?;
        let row = ReportRow {
            room_id: Some(room_id.to_string()),
            event_id: Some(event_id.to_string()),
            score,
            ..self.report(reporter, reason)
        };
        self.keep(row).await
    }

    /// Keeps a report of a user. That the user exists is the caller's to know.
    pub async fn report_user(&self, reporter: &UserId, user_id: &UserId, reason: &str) -> Result<(), ReportError> {
        let row = ReportRow { user_id: Some(user_id.to_string()), ..self.report(reporter, reason) };
        self.keep(row).await
    }

    fn report(&self, reporter: &UserId, reason: &str) -> ReportRow {
        let end = reason.floor_char_boundary(REASON_BYTES_MAX);
        ReportRow {
            reporter: reporter.to_string(),
            room_id: None,
            event_id: None,
            user_id: None,
            reason: reason[..end].to_owned(),
            score: None,
            reported_ts_ms: self.writer.clock.now_ms(),
        }
    }

    async fn keep(&self, row: ReportRow) -> Result<(), ReportError> {
        let mut salt = [0; 8];
        self.writer.entropy.fill(&mut salt);
        let mut write = Write::new(report_partition());
        let key = report_key(row.reported_ts_ms, u64::from_be_bytes(salt));
        write.require_absent(Table::Mi, key.clone());
        write.put(Table::Mi, key, &row);
        let result = self.writer.store.commit(write).await;
        result.map(drop).map_err(|error| ReportError::Unavailable(error.to_string()))
    }
}
