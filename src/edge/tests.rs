//! The kit from outside: requests to a router.
