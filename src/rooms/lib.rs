//! Create, send, join, read: the only writer of room events.
