//! Typed tables, batches, the state tree and the log, over the engine port.
