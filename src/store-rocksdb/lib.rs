//! The engine port on RocksDB.
