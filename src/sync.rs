//! Atomics that loom can replace: with `--cfg hublane_loom` the lock-free parts run under its model
//! checker. A name of our own, because tokio changes its API under `--cfg loom`.
#![forbid(unsafe_code)]

#[cfg(hublane_loom)]
pub(crate) use loom::sync::atomic;
#[cfg(not(hublane_loom))]
pub(crate) use std::sync::atomic;
