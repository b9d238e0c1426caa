//! Reading which servers are in which rooms.

use hearth_ports::{Key, KeyRange, Table};
use ruma::{OwnedServerName, ServerName};

use crate::{
    Corrupt, LoadError, RoomNumber, Row as _, Store,
    codec::{decode, read_u64},
    tables::{ServerRoomRow, ServerRow, room_server_key, room_servers_prefix, server_room_key, server_rooms_prefix},
};

/// The servers of one room, or rooms of one server, that are read at once. More than any has; the rest would not be seen.
const SERVERS_MAX: usize = 1_000_000;

impl Store {
    /// The servers of which a user is joined to the room, ours too, and how many, by name. While the room's members are
    /// being fetched (`Head::partial`) the number is 0: not known.
    pub async fn servers_in_room(&self, room: RoomNumber) -> Result<Vec<(OwnedServerName, u32)>, LoadError> {
        let prefix = room_servers_prefix(room);
        let rows = self.scan_all(Table::Rm, KeyRange::prefix(prefix.clone()), SERVERS_MAX, false).await?;
        let server = |key: &Key| {
            let text = std::str::from_utf8(&key[prefix.len()..]).ok();
            let corrupt = || Corrupt { what: ServerRow::NAME, reason: "its key has no server".to_owned() };
            text.and_then(|text| OwnedServerName::try_from(text).ok()).ok_or_else(corrupt)
        };
        rows.iter().map(|row| Ok((server(&row.key)?, decode::<ServerRow>(&row.value)?.joined))).collect()
    }

    /// How many users of a server are joined to the room; at least so many while the room's members are being fetched.
    pub async fn joined_from(&self, room: RoomNumber, server: &ServerName) -> Result<u32, LoadError> {
        let row: Option<ServerRow> = self.get(Table::Rm, &room_server_key(room, server)).await?;
        Ok(row.map_or(0, |row| row.joined.max(1)))
    }

    /// The rooms to which a user of the server is joined.
    pub async fn rooms_of_server(&self, server: &ServerName) -> Result<Vec<RoomNumber>, LoadError> {
        let range = KeyRange::prefix(server_rooms_prefix(server));
        let rows = self.scan_all(Table::Rm, range, SERVERS_MAX, false).await?;
        let mut rooms = Vec::with_capacity(rows.len());
        for row in &rows {
            let ServerRoomRow { server: name } = decode(&row.value)?;
            let room = RoomNumber(read_u64("room of a server", row.key.get(9..).unwrap_or_default())?);
            debug_assert_eq!(row.key.len(), server_room_key(server, room).len(), "a hash and a room");
            if name == server.as_str() {
                rooms.push(room);
            }
        }
        Ok(rooms)
    }
}
