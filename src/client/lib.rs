//! The client-server API, one file per endpoint.
