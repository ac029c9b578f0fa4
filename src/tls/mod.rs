//! TLS without sockets: handshakes by rustls, records by our own layer.
//!
//! A [`handshake::Handshake`] ends in a [`layer::RecordLayer`], a plain value that seals and opens
//! every record from then on: the same code for server, client and load generator, for the login
//! and for the data plane. Stages of a received record: [`record`] finds where it ends, [`layer`]
//! opens it and reads the few handshake messages that may still come, [`saved`] hands everything over
//! to a successor process.
#![forbid(unsafe_code)]

pub mod aead;
pub mod buffered;
pub mod config;
pub mod handshake;
pub mod keys;
pub mod layer;
mod post;
pub mod record;
pub mod saved;
pub mod x509;

#[cfg(test)]
mod interop_tests;
