//! The `hublane` program: reads the command line, runs the command, tells what went wrong.

use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use hublane::cli::{Cli, Command, ServeArgs};
use hublane::client::connect;
use hublane::commands;
use hublane::config::Config;
use hublane::server::reload::Origin;
use hublane::server::{self, Paths};
use tracing_subscriber::EnvFilter;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match &cli.command {
        Command::Serve(args) => serve(args),
        Command::Connect(args) => return connect::run(args),
        command => {
            commands::run(command, &mut io::stdin().lock(), &mut io::stdout().lock()).map_err(|error| error.to_string())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hublane: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(args: &ServeArgs) -> Result<(), String> {
    let filter = EnvFilter::try_from_env("HUBLANE_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let colours = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr).with_ansi(colours).init();
    let config = Config::load(args.config.as_deref(), args.raw()).map_err(|error| error.to_string())?;
    let paths = Paths { state: args.state_dir(), control_socket: args.control_socket() };
    let origin = Origin { file: args.config.clone(), typed: args.raw() };
    let done = if args.check { server::check(&config, &paths) } else { server::run(config, origin, &paths) };
    done.map_err(|error| error.to_string())
}
