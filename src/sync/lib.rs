//! Long-poll sessions: loads, waits, replies.
