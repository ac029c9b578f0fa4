//! `hublane-bench`: load for any hub that speaks the SoftEther protocol.

mod driver;
mod limit_memory;
mod limit_relay;
mod login;
mod members;
mod outflow;
mod process;
mod stream;
mod stream_drive;
mod stream_pairs;
mod throughput;
mod tls_choice;
mod traffic;
mod units;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Load generator for SoftEther-compatible hubs: ours and stock servers alike.
#[derive(Parser)]
#[command(version, about)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Subcommand)]
enum Mode {
    /// N members log in, stay and chatter: unicast to each other at a low rate.
    Members(members::Members),
    /// Pairs of members: how much goes through, and what it costs the server.
    Throughput(throughput::Throughput),
    /// What a hub cannot beat: the same work without sockets, or without frames.
    #[command(subcommand)]
    Limit(Limit),
    /// Source and sink of a TLS pipe: what goes through, and what it costs the pipe.
    Stream(stream::Stream),
}

#[derive(Subcommand)]
enum Limit {
    /// Frames from record to record in memory, on one thread.
    Memory(limit_memory::LimitMemory),
    /// A bare pipe on the server's back end: TLS in, TLS out, no frames. Runs until it is killed.
    Relay(limit_relay::LimitRelay),
}

fn main() {
    let done = match Cli::parse().mode {
        Mode::Members(mode) => mode.run(),
        Mode::Throughput(mode) => mode.run(),
        Mode::Limit(Limit::Memory(mode)) => mode.run(),
        Mode::Limit(Limit::Relay(mode)) => mode.run(),
        Mode::Stream(mode) => mode.run(),
    };
    if let Err(error) = done {
        eprintln!("hublane-bench: {error}");
        std::process::exit(1);
    }
}
