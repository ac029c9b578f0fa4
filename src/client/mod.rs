//! The member's side: reaching a hub and logging in.
#![forbid(unsafe_code)]

pub mod card;
pub mod connect;
pub mod dial;
pub mod via;
pub mod wire;
