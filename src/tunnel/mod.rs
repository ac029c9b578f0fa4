//! The VPN protocol inside TLS: HTTP front, PACK messages, login, and the stream of Ethernet blocks.
//!
//! Everything here turns bytes into values and values into bytes. Nothing reads a socket or a clock
//! or makes random numbers; what is needed of those comes as an argument.
#![forbid(unsafe_code)]

pub mod link;

pub mod conn;

pub mod deframe;

pub mod fair;
pub mod pace;
mod parked;
pub mod queue;
pub mod records;
mod taker;

pub mod egress;

pub mod enframe;

pub mod buffer;

pub mod codec;

pub mod login;

pub mod http;

pub mod pack;

pub mod error_code;
pub mod sha0;
