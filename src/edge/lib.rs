//! The inbound HTTP kit: erased routes, authentication, errors, limits.
