//! `hublane-bench`: load for any hub that speaks the SoftEther protocol.

mod driver;
mod members;

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
}

fn main() {
    let Cli { mode: Mode::Members(members) } = Cli::parse();
    if let Err(error) = members.run() {
        eprintln!("hublane-bench: {error}");
        std::process::exit(1);
    }
}
