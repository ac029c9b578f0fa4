//! `hublane-bench`: load for any hub that speaks the SoftEther protocol.
//!
//! A mode makes a plan (`plan`: who sends what to whom, how fast), logs members in (`login`) and gives both, by way of
//! a `bed`, to the engine (`engine`), whose threads (`shard`) drive the members' links (`driver`), send by the plan and check what
//! arrives (`inbox`, `traffic`). `report` adds it up.

mod bed;
mod capacity;
mod driver;
mod echo;
mod engine;
mod flood;
mod inbox;
mod latency;
mod limit_memory;
mod limit_relay;
mod limit_sleep;
mod link;
mod login;
mod logins;
mod mixed;
mod nat;
mod nat_client;
mod nat_crowd;
mod nat_wire;
mod outflow;
mod plan;
mod process;
mod progress;
mod report;
mod sessions;
mod shard;
mod stream;
mod stream_drive;
mod stream_pairs;
mod throughput;
mod tls_choice;
mod traffic;
mod units;
mod visits;

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
    /// How much goes through, and what it costs the server.
    Throughput(throughput::Throughput),
    /// How long frames take at given rates.
    Latency(latency::Latency),
    /// One member broadcasts, all others receive.
    Flood(flood::Flood),
    /// N members log in and stay, silent or chatting.
    Sessions(sessions::Sessions),
    /// Members log in and leave at once.
    Logins(logins::Logins),
    /// Steady traffic while members come and go.
    Mixed(mixed::Mixed),
    /// Members get addresses by DHCP and open flows through the hub's NAT.
    Nat(nat::Nat),
    /// The far end of `nat`: answers for any number of addresses. Runs until it is killed.
    Echo(echo::Echo),
    /// An emulated link between two devices: delay, rate, queue and loss.
    Link(link::Link),
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
    /// What falling asleep and waking costs a worker on this machine.
    Sleep(limit_sleep::LimitSleep),
}

fn main() {
    let done = match Cli::parse().mode {
        Mode::Throughput(mode) => mode.run(),
        Mode::Latency(mode) => mode.run(),
        Mode::Flood(mode) => mode.run(),
        Mode::Sessions(mode) => mode.run(),
        Mode::Logins(mode) => mode.run(),
        Mode::Mixed(mode) => mode.run(),
        Mode::Nat(mode) => mode.run(),
        Mode::Echo(mode) => mode.run(),
        Mode::Link(mode) => mode.run(),
        Mode::Limit(Limit::Memory(mode)) => mode.run(),
        Mode::Limit(Limit::Relay(mode)) => mode.run(),
        Mode::Limit(Limit::Sleep(mode)) => mode.run(),
        Mode::Stream(mode) => mode.run(),
    };
    if let Err(error) = done {
        eprintln!("hublane-bench: {error}");
        std::process::exit(1);
    }
}
