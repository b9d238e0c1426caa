//! The executable: configuration, choice of adapters, roles.

fn main() {}
