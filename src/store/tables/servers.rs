//! Which servers are in which rooms: `Rm` rows `s room server` and `S server8 room`. A server is in a room while a user of
//! it is joined.

use hearth_ports::{Key, Table};
use ruma::ServerName;
use serde::{Deserialize, Serialize};

use crate::{RoomNumber, Write, id16, key, row};

/// How many users of a server are joined to a room; there is no row for none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRow {
    /// At least 1; 0 only while a room's members are being fetched: it is not known how many.
    pub joined: u32,
}

row!(ServerRow, "server in a room", version 1);

/// A room that a server is in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServerRoomRow {
    /// The server's name: in the key stands its hash.
    pub server: String,
}

row!(ServerRoomRow, "room of a server", version 1);

/// `Rm`: a room's servers are the rows with the prefix `s room`; what follows is the name.
pub fn room_server_key(room: RoomNumber, server: &ServerName) -> Key {
    key(b's').room(room).raw(server.as_bytes()).build()
}

/// The prefix of all [`room_server_key`]s of a room.
pub fn room_servers_prefix(room: RoomNumber) -> Key {
    key(b's').room(room).build()
}

/// `Rm`: a server's rooms. The row belongs to the room's partition.
pub fn server_room_key(server: &ServerName, room: RoomNumber) -> Key {
    key(b'S').raw(&id16(server.as_str())[..8]).room(room).build()
}

/// The prefix of all [`server_room_key`]s of a server, and of another one only if 8 bytes of their hashes are equal.
pub fn server_rooms_prefix(server: &ServerName) -> Key {
    key(b'S').raw(&id16(server.as_str())[..8]).build()
}

/// Says that a server is in a room whose members are being fetched, in both rows. The write is of the room's partition.
pub fn put_uncounted_server(write: &mut Write, room: RoomNumber, server: &ServerName) {
    write.put(Table::Rm, room_server_key(room, server), &ServerRow { joined: 0 });
    write.put(Table::Rm, server_room_key(server, room), &ServerRoomRow { server: server.as_str().to_owned() });
}

/// Says how many users of a server are joined to a room, in both rows. The write is of the room's partition.
pub fn put_room_server(write: &mut Write, room: RoomNumber, server: &ServerName, joined: u32) {
    let (of_room, of_server) = (room_server_key(room, server), server_room_key(server, room));
    if joined == 0 {
        write.delete(Table::Rm, of_room);
        write.delete(Table::Rm, of_server);
    } else {
        write.put(Table::Rm, of_room, &ServerRow { joined });
        write.put(Table::Rm, of_server, &ServerRoomRow { server: server.as_str().to_owned() });
    }
}
