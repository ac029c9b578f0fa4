//! The control world: threads that may allocate, lock and wait. Nothing here runs on a worker.
//!
//! In the order a member meets it: [`accept`] (who gets in at all), [`stream`] (TLS), [`front`] (HTTP, login,
//! hand-over), [`auth`] (who), [`sessions`] and [`workers`] (where he lives), [`reports`] (how it ended).
#![forbid(unsafe_code)]

pub mod accept;
pub mod stream;

pub mod front;

pub mod auth;

pub mod sessions;
pub mod ways;
pub mod workers;

pub mod reports;
pub mod router_log;

pub mod dns;

pub mod admin;
pub mod log;
pub mod operator;
mod operator_router;
pub mod state;
pub mod tls_setup;
