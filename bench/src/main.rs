//! `hublane-bench`: load for any hub that speaks the SoftEther protocol.

mod driver;
mod login;
mod members;
mod process;
mod throughput;
mod traffic;

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
}

fn main() {
    let done = match Cli::parse().mode {
        Mode::Members(mode) => mode.run(),
        Mode::Throughput(mode) => mode.run(),
    };
    if let Err(error) = done {
        eprintln!("hublane-bench: {error}");
        std::process::exit(1);
    }
}
