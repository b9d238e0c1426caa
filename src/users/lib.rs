//! Accounts, sessions, devices, account data, profiles, presence, typing, receipts.
