//! The control world: threads that may allocate, lock and wait (design §1). Nothing here runs on a worker.
#![forbid(unsafe_code)]

pub mod admin;
pub mod auth;
pub mod log;
pub mod state;
