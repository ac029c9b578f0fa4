//! Hublane: a virtual Ethernet hub for VPN.
//!
//! Modules stand in the order a frame meets them; README's "Life of a frame" walks through them.

pub mod sys;

pub mod worker;

pub mod tls;

pub mod tunnel;

pub mod hub;

pub mod gateway;

pub mod lane;

pub mod nat;

pub mod wire;

pub mod client;

pub mod control;

pub mod config;

pub mod metrics;

pub mod cli;
pub mod commands;
pub mod doctor;
pub mod event;
pub mod ids;
pub mod server;
pub(crate) mod sync;
pub mod tick;
