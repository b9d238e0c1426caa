//! Which servers are asked for help, and in which order.

use hearth_store::{LoadError, tables::OutsideRow};
use ruma::{OwnedServerName, RoomId, ServerName};

use crate::rooms::Rooms;

/// Servers that are asked one after the other. The first who answers mostly helps; a dead one costs a time-out.
const CANDIDATES_MAX: usize = 10;

/// Of the servers that were in the room when this one was last, those with the most users.
const LAST_KNOWN_MAX: usize = 4;

impl Rooms {
    /// The servers to ask: those that the client names, those that the invite came from, those that were in the room when
    /// we last knew, and the one that the room's id names. Never ourselves, nobody twice.
    pub(super) async fn candidates(
        &self,
        room_id: &RoomId,
        outside: Option<&OutsideRow>,
        via: &[OwnedServerName],
    ) -> Result<Vec<OwnedServerName>, LoadError> {
        let mut all: Vec<OwnedServerName> = via.to_vec();
        let told = outside.into_iter().flat_map(|row| &row.via);
        all.extend(told.filter_map(|server| OwnedServerName::try_from(server.as_str()).ok()));
        all.extend(self.others_in_room(room_id).await?.into_iter().take(LAST_KNOWN_MAX));
        all.extend(room_id.server_name().map(ServerName::to_owned));
        Ok(distinct(all, &self.writer.server_name))
    }

    /// The other servers in a room as it is kept here, those with the most users first.
    pub(super) async fn others_in_room(&self, room_id: &RoomId) -> Result<Vec<OwnedServerName>, LoadError> {
        let store = &self.writer.store;
        let Some(room) = store.room_number(room_id).await? else { return Ok(Vec::new()) };
        let mut servers = store.servers_in_room(room).await?;
        servers.retain(|(server, _)| *server != self.writer.server_name);
        servers.sort_by_key(|(_, joined)| std::cmp::Reverse(*joined));
        Ok(servers.into_iter().map(|(server, _)| server).collect())
    }
}

fn distinct(servers: Vec<OwnedServerName>, own: &ServerName) -> Vec<OwnedServerName> {
    let mut candidates: Vec<OwnedServerName> = Vec::new();
    for server in servers {
        if server != own && !candidates.contains(&server) && candidates.len() < CANDIDATES_MAX {
            candidates.push(server);
        }
    }
    candidates
}

#[cfg(test)]
mod tests {
    use ruma::{owned_server_name, server_name};

    use super::*;

    #[test]
    fn nobody_is_asked_twice_and_never_ourselves() {
        let given =
            vec![owned_server_name!("a"), owned_server_name!("us"), owned_server_name!("b"), owned_server_name!("a")];
        assert_eq!(distinct(given, server_name!("us")), [owned_server_name!("a"), owned_server_name!("b")]);
        let many = (0..50).map(|nth| OwnedServerName::try_from(format!("s{nth}")).unwrap()).collect();
        assert_eq!(distinct(many, server_name!("us")).len(), CANDIDATES_MAX);
    }
}
