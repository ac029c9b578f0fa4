//! The command line as typed. What it means is decided by [`crate::config`].
#![forbid(unsafe_code)]
#![allow(rustdoc::broken_intra_doc_links, rustdoc::bare_urls, reason = "comments are the texts of --help")]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::client::connect::args::ConnectArgs;
use crate::client::via::Via;
use crate::config::problem::{Located, Place};
use crate::config::raw::{RawLane, RawServer};
use crate::control::state;
use crate::doctor::reach::certificate::Fingerprint;

/// A virtual Ethernet hub for VPN that SoftEther clients log in to.
#[derive(Clone, Debug, PartialEq, Eq, Parser)]
#[command(name = "hublane", version, max_term_width = 100, propagate_version = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Run the server.
    ///
    /// Without --config there is one hub, PUBLIC. The first start makes certificates and one user and
    /// prints what a member types to come in. SIGTERM ends every session in good order.
    Serve(Box<ServeArgs>),
    /// Join a hub: a network device of this machine becomes a card in it.
    ///
    /// Runs until SIGINT or SIGTERM ends it, and connects again whenever the server or the way was gone.
    Connect(Box<ConnectArgs>),
    /// Show, add and remove users. A running server takes the change at the next login.
    User(UserArgs),
    /// Show how a running server is: workers, hubs, reasons of dropped frames.
    Status(AskArgs),
    /// Show or end sessions of a running server.
    #[command(subcommand)]
    Session(SessionCommand),
    /// Show learned addresses of a running server.
    #[command(subcommand)]
    Mac(MacCommand),
    /// Show or end leases of a running server's gateways.
    #[command(subcommand)]
    Dhcp(DhcpCommand),
    /// Show what members have in the NATs of a running server.
    #[command(subcommand)]
    Nat(NatCommand),
    /// Look at configuration files.
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Explain every reason for which a frame is dropped or a connection closed.
    Drops,
    /// Look at this machine, or at the ways to a server: 0 if what is asked about can work, 1 if not, with the reason and
    /// what helps.
    Doctor(DoctorArgs),
}

/// Options of `hublane serve`. Each comes before the same key of the file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Args)]
pub struct ServeArgs {
    /// Configuration in TOML. Without it: hub PUBLIC and the defaults shown here.
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Accounts and certificates [default: /var/lib/hublane for root, else ~/.local/state/hublane].
    ///
    /// Made with mode 0700 if it is not there. One server at a time may use it.
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
    /// Address to accept members on; may be given up to 64 times.
    ///
    /// Such as `192.0.2.1:443` or `[::]:443`, which takes IPv4 too. Without it: ports 443, 992, 1194 and
    /// 5555 on all addresses, as many of them as are free. An address given here must be free.
    #[arg(long, value_name = "ADDR:PORT")]
    pub listen: Vec<String>,
    /// Unix socket for `hublane status` and its like, mode 0600 [default: control.sock in --state].
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
    /// Processors of the workers, one thread each, as 0-3 or 0,2 [default: all the process may use, at most 63].
    #[arg(long, value_name = "CPULIST")]
    pub workers: Option<String>,
    /// Processors of the control threads (handshakes, logins) [default: all the process may use].
    #[arg(long, value_name = "CPULIST")]
    pub control_cpus: Option<String>,
    /// Entries of each worker's submission ring: a power of two, 64 to 32768 [default: 1024].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    pub queue_depth: Option<i64>,
    /// Use at most the kernel features of that version: all, 6.1 or 5.15 (which means epoll) [default: all].
    ///
    /// For tests. Features that the kernel lacks are never used, whatever is said here.
    #[arg(long, value_name = "VERSION")]
    pub kernel_features: Option<String>,
    /// TLS versions to offer: 1.2, 1.3 or both [default: 1.2,1.3].
    #[arg(long, value_name = "VERSIONS", value_delimiter = ',')]
    pub tls_versions: Vec<String>,
    /// Certificates to show: auto, rsa or ecdsa [default: auto: both, the client's offer decides].
    #[arg(long, value_name = "KIND")]
    pub certificate: Option<String>,
    /// Implementation that seals and opens records: aws-lc (fast) or aes-gcm (pure Rust) [default: aws-lc].
    #[arg(long, value_name = "NAME")]
    pub aead: Option<String>,
    /// Pause of a worker, in microseconds, while frames come so often that waking costs more than they do, 0 to 1000
    /// [default: 100].
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    pub gather_us: Option<i64>,
    /// Congestion control of members' connections, by its name in the kernel [default: cubic, if the kernel has it].
    #[arg(long, value_name = "NAME")]
    pub congestion: Option<String>,
    /// Way of the NATs to the Internet: auto, xdp, packet or generic [default: auto: what the device does best].
    ///
    /// For every [hub.nat]; `hublane doctor --lane DEVICE` tells what each means on a device.
    #[arg(long, value_name = "MODE")]
    pub lane_mode: Option<String>,
    /// How packets from there come to their worker: auto, ntuple, rss or handoff [default: auto].
    #[arg(long, value_name = "HOW")]
    pub lane_steer: Option<String>,
    /// AF_XDP sockets poll the device so many microseconds before they wait for it, 0 to 1000 [default: 0: they do not].
    #[arg(long, value_name = "US", allow_negative_numbers = true)]
    pub lane_busy_poll_us: Option<i64>,
    /// Update each TLS 1.3 key after so many records, 1 to 16777216 [default: when the cipher asks for it].
    #[arg(long, value_name = "RECORDS", allow_negative_numbers = true)]
    pub rekey_after: Option<i64>,
    /// Check configuration and state, then exit: 0 if the server could start, 1 if not.
    #[arg(long)]
    pub check: bool,
}

impl ServeArgs {
    /// What was typed of `[server]`, for [`crate::config::Config::load`].
    pub fn raw(&self) -> RawServer {
        RawServer {
            listen: words("--listen", &self.listen),
            workers: located("--workers", self.workers.as_ref()),
            control_cpus: located("--control-cpus", self.control_cpus.as_ref()),
            queue_depth: located("--queue-depth", self.queue_depth.as_ref()),
            kernel_features: located("--kernel-features", self.kernel_features.as_ref()),
            tls_versions: words("--tls-versions", &self.tls_versions),
            certificate: located("--certificate", self.certificate.as_ref()),
            aead: located("--aead", self.aead.as_ref()),
            gather_us: located("--gather-us", self.gather_us.as_ref()),
            congestion: located("--congestion", self.congestion.as_ref()),
            rekey_after_records: located("--rekey-after", self.rekey_after.as_ref()),
            lane: RawLane {
                lane_mode: located("--lane-mode", self.lane_mode.as_ref()),
                lane_steer: located("--lane-steer", self.lane_steer.as_ref()),
                lane_busy_poll_us: located("--lane-busy-poll-us", self.lane_busy_poll_us.as_ref()),
            },
            ..RawServer::default()
        }
    }

    /// The state directory: as typed, else the default.
    pub fn state_dir(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(state::default_path)
    }

    /// The control socket: as typed, else in the state directory.
    pub fn control_socket(&self) -> PathBuf {
        self.control_socket.clone().unwrap_or_else(|| state::default_control_socket(&self.state_dir()))
    }
}

/// `hublane user …`
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct UserArgs {
    /// What to do with users.
    #[command(subcommand)]
    pub command: UserCommand,
    /// Where the accounts are [default: as for serve].
    #[arg(long, value_name = "DIR", global = true)]
    pub state: Option<PathBuf>,
    /// Hub the user belongs to; case does not count [default: PUBLIC; list: all hubs].
    #[arg(long, value_name = "HUB", global = true)]
    pub hub: Option<String>,
}

impl UserArgs {
    /// The state directory: as typed, else the default.
    pub fn state_dir(&self) -> PathBuf {
        self.state.clone().unwrap_or_else(state::default_path)
    }
}

/// What to do with users.
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum UserCommand {
    /// Show all users.
    List,
    /// Add a user. Prints the password if it was made here.
    Add(PasswordArgs),
    /// Give a user another password. Prints it if it was made here. His sessions go on.
    Reset(PasswordArgs),
    /// Have a user log in by a certificate, and by no password. `reset` gives him a password again. His sessions go on.
    Set {
        /// Name of the user; case does not count.
        name: String,
        /// His certificate (PEM or DER, RSA with 2048 bits or more). Only its fingerprint is kept.
        #[arg(long, value_name = "FILE")]
        cert: PathBuf,
    },
    /// Remove a user. His sessions go on until they end: see `hublane session kick`.
    Remove {
        /// Name of the user; case does not count.
        name: String,
    },
    /// Let a user log in no more. A running server ends his sessions and what he has in the NAT.
    Block(BlockArgs),
    /// Let a blocked user log in again.
    Unblock {
        /// Name of the user; case does not count.
        name: String,
    },
}

/// A user to block.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct BlockArgs {
    /// Name of the user; case does not count.
    pub name: String,
    /// Socket of the server [default: the one that the server of --state has].
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
}

/// A user and where his password comes from.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct PasswordArgs {
    /// Name: 1 to 255 of A-Z a-z 0-9 space ( ) - _ # % & . @; case does not count.
    pub name: String,
    /// Take the password from the first line of standard input (1 to 255 bytes) instead of making one.
    #[arg(long)]
    pub password_stdin: bool,
}

/// `hublane session …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum SessionCommand {
    /// Show sessions.
    List(ListArgs),
    /// End a session. Its client may log in again.
    Kick {
        /// Name as in `hublane session list`: SID-…; case does not count.
        name: String,
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it")]
        ask: AskArgs,
    },
}

/// `hublane mac …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum MacCommand {
    /// Show learned addresses.
    List(ListArgs),
}

/// `hublane dhcp …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum DhcpCommand {
    /// Show addresses that members have or had.
    List(ListArgs),
    /// End a lease, with everything that goes through the NAT by its address. Its client asks for another.
    Release {
        /// The address.
        address: Ipv4Addr,
        /// Its hub; case does not count [default: the one whose network it is in].
        #[arg(long, value_name = "HUB")]
        hub: Option<String>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it")]
        ask: AskArgs,
    },
}

/// `hublane nat …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum NatCommand {
    /// Show mappings and flows.
    List {
        /// Only of this user; case does not count.
        #[arg(long, value_name = "NAME")]
        user: Option<String>,
        /// Only of this inside address.
        #[arg(long, value_name = "INSIDE")]
        address: Option<Ipv4Addr>,
        /// At most so many lines.
        #[arg(long, value_name = "N", default_value_t = 1000)]
        max: u32,
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it")]
        list: ListArgs,
    },
    /// Show how full and how busy NATs are.
    Stats(ListArgs),
    /// Say who has a public address and port now, and whether a packet from outside reaches him.
    Explain {
        /// Protocol: tcp, udp or icmp.
        #[arg(value_parser = ["tcp", "udp", "icmp"])]
        proto: String,
        /// Public address and port (ICMP: identifier), such as 192.0.2.9:61002.
        #[arg(value_name = "EXTERNAL:PORT")]
        external: SocketAddrV4,
        /// The other end: only its flows, and what becomes of a packet from there.
        #[arg(long, value_name = "ADDR:PORT")]
        remote: Option<SocketAddrV4>,
        #[command(flatten)]
        #[allow(missing_docs, reason = "clap would show it")]
        ask: AskArgs,
    },
}

/// `hublane config …`
#[derive(Clone, Debug, PartialEq, Eq, Subcommand)]
pub enum ConfigCommand {
    /// Check a file: 0 if a server would take it, 1 if not; says every line that is wrong, and how far public ports go.
    Check {
        /// Configuration in TOML.
        file: PathBuf,
    },
}

/// `hublane doctor …`
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct DoctorArgs {
    /// Server: tries every way to it, times each step, and says what is in the way. Without PORT: 443, 992, 1194, 5555.
    #[arg(value_name = "HOST[:PORT]", required_unless_present = "lane", conflicts_with = "lane")]
    pub server: Option<String>,
    /// Network device of a [hub.nat]: what it offers, which lane would be chosen and why, what would improve it.
    #[arg(long, value_name = "DEVICE")]
    pub lane: Option<String>,
    /// Way to try besides the straight one and that of the environment; may be given several times.
    ///
    /// direct, http://[USER@]HOST:PORT, socks4://, socks4a:// and socks5:// alike, or ssh://[USER@]HOST[:PORT].
    #[arg(long, value_name = "WAY", conflicts_with = "lane")]
    pub via: Vec<Via>,
    /// File with the password of a proxy's user in its first line [default: HUBLANE_PROXY_PASSWORD, else it is asked for].
    #[arg(long, value_name = "FILE", conflicts_with = "lane")]
    pub proxy_password_file: Option<PathBuf>,
    /// SHA-256 fingerprint that the server's certificate must have, as the server prints it at its start.
    #[arg(long, value_name = "SHA256", conflicts_with = "lane")]
    pub pin: Option<Fingerprint>,
    /// Longest wait of a way for its connection, for TLS, and for the server's answer, each, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    pub timeout: u64,
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
}

/// A list of something in hubs.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct ListArgs {
    /// Only this hub; case does not count [default: all hubs].
    #[arg(long, value_name = "HUB")]
    pub hub: Option<String>,
    #[command(flatten)]
    #[allow(missing_docs, reason = "clap would show it")]
    pub ask: AskArgs,
}

/// How to ask a running server.
#[derive(Clone, Debug, PartialEq, Eq, Args)]
pub struct AskArgs {
    /// Print JSON instead of tables.
    #[arg(long)]
    pub json: bool,
    /// Socket of the server [default: the one that the server of --state has].
    #[arg(long, value_name = "PATH")]
    pub control_socket: Option<PathBuf>,
    /// State directory of the server [default: as for serve].
    #[arg(long, value_name = "DIR")]
    pub state: Option<PathBuf>,
}

impl AskArgs {
    /// The control socket: as typed, else as the server of the state directory has noted.
    pub fn control_socket(&self) -> PathBuf {
        let state = || self.state.clone().unwrap_or_else(state::default_path);
        self.control_socket.clone().unwrap_or_else(|| state::control_socket(&state()))
    }
}

fn located<T: Clone>(option: &'static str, value: Option<&T>) -> Option<Located<T>> {
    value.map(|value| Located { value: value.clone(), place: Place::Option(option) })
}

fn words(option: &'static str, values: &[String]) -> Option<Vec<Located<String>>> {
    let words: Vec<_> = values.iter().filter_map(|value| located(option, Some(value))).collect();
    if words.is_empty() { None } else { Some(words) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn clap_agrees_with_itself() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_has_help() {
        fn check(command: &clap::Command) {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for arg in command.get_arguments().filter(|arg| !["help", "version"].contains(&arg.get_id().as_str())) {
                assert!(arg.get_help().is_some(), "{} {}", command.get_name(), arg.get_id());
            }
            command.get_subcommands().for_each(check);
        }
        check(&Cli::command());
    }

    #[test]
    fn every_option_of_serve_reaches_the_configuration() {
        let line = "hublane serve --config /c --state /s --listen 127.0.0.1:1 --listen [::1]:2 --control-socket /k \
            --workers 0-1 --control-cpus 2 --queue-depth 64 --kernel-features 6.1 --tls-versions 1.2,1.3 \
            --certificate rsa --aead aes-gcm --rekey-after 9 --check";
        let Ok(Command::Serve(args)) = parse(line) else { panic!("serve") };
        assert_eq!((args.config.as_deref(), args.check), (Some("/c".as_ref()), true));
        assert_eq!((args.state_dir(), args.control_socket()), ("/s".into(), "/k".into()));
        let server = Config::load(None, args.raw()).unwrap().server;
        let listen: Vec<_> = server.listen.iter().map(|listen| listen.address.to_string()).collect();
        assert_eq!(listen, ["127.0.0.1:1", "[::1]:2"]);
        assert_eq!(server.workers.unwrap().to_string(), "0-1");
        assert_eq!(server.control_cpus.unwrap().to_string(), "2");
        assert_eq!((server.queue_depth, server.rekey_after_records), (64, Some(9)));
        assert_eq!(server.kernel_features, crate::sys::features::FeatureMask::K6_1);
        assert_eq!(server.certificate, crate::config::Certificate::Rsa);
        assert_eq!(server.aead, crate::tls::aead::AeadBackend::RustCrypto);
        assert_eq!(server.tls_versions, crate::tls::config::TlsVersions::Both);
    }

    #[test]
    fn options_of_the_lane_come_before_the_file() {
        use crate::lane::choice::{LaneMode, LaneSteer};
        let nat = "[hub.gateway]\n[hub.nat]\ndevice = \"e\"\nlane_mode = \"packet\"\nlane_busy_poll_us = 20\n";
        let text = format!("[[hub]]\nname = \"A\"\n[[hub]]\nname = \"B\"\n{nat}");
        let lane = |line: &str| {
            let Ok(Command::Serve(args)) = parse(line) else { panic!("{line}") };
            let config = Config::build("f", &text, std::path::Path::new(""), args.raw()).unwrap();
            let nat = config.hubs[1].nat.clone().unwrap();
            (nat.lane_mode, nat.lane_steer, nat.lane_busy_poll.as_micros())
        };
        assert_eq!(lane("hublane serve"), (LaneMode::Packet, LaneSteer::Auto, 20));
        let typed = "hublane serve --lane-mode xdp --lane-steer rss --lane-busy-poll-us 0";
        assert_eq!(lane(typed), (LaneMode::Xdp, LaneSteer::Rss, 0));
    }

    #[test]
    fn mistakes_in_options_name_the_option() {
        for (options, option) in [
            ("--listen 443", "--listen"),
            ("--workers a", "--workers"),
            ("--control-cpus 1-0", "--control-cpus"),
            ("--queue-depth -1", "--queue-depth"),
            ("--kernel-features 5", "--kernel-features"),
            ("--tls-versions 1.2,1.1", "--tls-versions"),
            ("--certificate x", "--certificate"),
            ("--aead x", "--aead"),
            ("--rekey-after 0", "--rekey-after"),
            ("--lane-mode native", "--lane-mode"),
            ("--lane-steer x", "--lane-steer"),
            ("--lane-busy-poll-us 1001", "--lane-busy-poll-us"),
        ] {
            let Ok(Command::Serve(args)) = parse(&format!("hublane serve {options}")) else { panic!("{options}") };
            let error = Config::load(None, args.raw()).unwrap_err();
            assert_eq!((error.problems.len(), error.problems[0].place.as_str()), (1, option), "{error}");
        }
    }

    #[test]
    fn other_commands() {
        for line in [
            "user list",
            "user list --hub H --state /s",
            "user --state /s add alice --password-stdin --hub H",
            "user reset alice",
            "user remove alice --state /s",
            "status --json --control-socket /k",
            "session list --hub H --json",
            "session kick SID-A-1 --state /s",
            "mac list",
            "user block alice --hub H --control-socket /k",
            "user unblock alice --state /s",
            "dhcp list --hub H --json",
            "dhcp release 100.64.0.9 --hub H",
            "nat list --hub H --user alice --address 100.64.0.9 --max 5",
            "nat stats --state /s",
            "nat explain tcp 192.0.2.9:61002 --remote 198.51.100.1:443 --json",
            "config check /f",
            "drops",
            "doctor --lane eth0 --json",
            "doctor vpn.example:443 --json --timeout 60",
            "doctor [::1]:443 --via http://me@proxy:3128 --via ssh://gate --proxy-password-file /p",
            "serve",
            "connect vpn.example.org:5555 --hub H --user alice --connections 8 --address 192.0.2.5/24",
            "connect [2001:db8::1]:443 --user alice --bridge br0 --insecure --json",
        ] {
            parse(&format!("hublane {line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
        }
        for line in ["nat explain sctp 192.0.2.9:1", "nat explain tcp 192.0.2.9", "dhcp release x", "user block"] {
            assert!(parse(&format!("hublane {line}")).is_err(), "{line}");
        }
        for line in ["", "user", "user add", "session", "session kick", "config check", "serve extra", "serve --port 1"]
        {
            assert!(parse(&format!("hublane {line}")).is_err(), "{line}");
        }
        for line in
            ["", "h --lane eth0", "--lane e --via direct", "h --via x", "h --via http://a:b@c:1", "h --timeout 0"]
        {
            assert!(parse(&format!("hublane doctor {line}")).is_err(), "{line}");
        }
        let Ok(Command::Status(ask)) = parse("hublane status --state /s") else { panic!("status") };
        assert_eq!(ask.control_socket(), PathBuf::from("/s/control.sock"));
    }
}
