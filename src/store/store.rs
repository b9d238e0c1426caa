//! The store: an engine, the caches over what never changes, and what is known in memory of the newest positions.
