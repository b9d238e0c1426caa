//! What a reader sees: visibility and sync deltas. Pure.
