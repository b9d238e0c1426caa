//! Assembles services, routers and log readers from a set of ports.
