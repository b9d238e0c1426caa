//! The rules of rooms: events, room versions, authorisation, state resolution, signatures. Pure.
