//! The log thread: events become lines.
//!
//! Whoever has an event hands it over and goes on: a full channel loses the event and counts it, since
//! a slow disk must not slow traffic down. Who was where (sessions, leases, public ports) has places that nothing else
//! takes, or one member's chatter would make it lost. Every name from the network is escaped, so that one event is
//! one line whatever the name holds (conformance H20).
#![forbid(unsafe_code)]

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::JoinHandle;

use crossbeam::channel::{Receiver, Sender, bounded};

use super::router_log::{RouterWords, is_trace, is_warning};
use crate::event::{Event, Traffic, What};

/// Hands events to the log thread. Clone freely.
#[derive(Clone, Debug)]
pub struct EventSender {
    events: Sender<Event>,
    /// Places that all kinds may take.
    room: usize,
    lost: Arc<AtomicU64>,
}

impl EventSender {
    /// Never waits. An event that does not fit is lost and counted.
    pub fn send(&self, event: Event) {
        // Two who look at once may both go in: some places more than `room`, as many as there are threads.
        let has_room = self.events.len() < self.room || is_kept(&event.what);
        if !has_room || self.events.try_send(event).is_err() {
            self.lost.fetch_add(1, Relaxed);
        }
    }

    /// Events lost so far.
    pub fn lost(&self) -> u64 {
        self.lost.load(Relaxed)
    }

    /// A sender and the receiving end, of room for `room` events, and as many again of who was where.
    pub fn channel(room: usize) -> (EventSender, Receiver<Event>) {
        let (events, received) = bounded(2 * room);
        (EventSender { events, room, lost: Arc::new(AtomicU64::new(0)) }, received)
    }
}

/// Starts the log thread. It ends once every [`EventSender`] is gone and all events are written.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(room: usize) -> io::Result<(EventSender, JoinHandle<()>)> {
    let (sender, events) = EventSender::channel(room);
    let lost = Arc::clone(&sender.lost);
    let thread = std::thread::Builder::new().name("log".to_owned()).spawn(move || run(&events, &lost))?;
    Ok((sender, thread))
}

fn run(events: &Receiver<Event>, lost: &AtomicU64) {
    let mut told = 0;
    for event in events {
        emit(&event);
        let lost = lost.load(Relaxed);
        if lost > told {
            tracing::warn!(target: TARGET, "events lost: {} (in all {lost}): the log is slower than the server", lost - told);
            told = lost;
        }
    }
}

/// Whether the event tells who was where, and when. Each of these costs its member a login, a lease or a port.
fn is_kept(what: &What) -> bool {
    match what {
        What::SessionOpened { .. }
        | What::SessionClosed { .. }
        | What::ConnectionOpened { .. }
        | What::ConnectionClosed { .. } => true,
        What::Router { event, .. } => is_trace(event),
        What::LoginRefused { .. } | What::DropSample { .. } | What::ConfigChanged { .. } => false,
    }
}

fn emit(event: &Event) {
    let line = Line(event);
    match event.what {
        What::DropSample { .. } => tracing::debug!(target: TARGET, "{line}"),
        What::Router { ref event, .. } if is_warning(event) => tracing::warn!(target: TARGET, "{line}"),
        What::LoginRefused { .. } => tracing::warn!(target: TARGET, "{line}"),
        _ => tracing::info!(target: TARGET, "{line}"),
    }
}

/// An event as one line of `key=value` words.
#[derive(Debug)]
pub struct Line<'e>(pub &'e Event);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0.what {
            What::SessionOpened { session, name, member, user, hub, worker, client } => write!(
                f,
                "session opened session={} name={} member={} user={} hub={} worker={worker} client={}",
                session.0,
                Escaped(name),
                member.0,
                Escaped(user),
                Escaped(hub),
                Escaped(client)
            ),
            What::SessionClosed { session, reason, traffic } => {
                write!(f, "session closed session={} reason={}{}", session.0, reason.label(), TrafficWords(traffic))
            }
            What::ConnectionOpened { conn, session, peer, suite } => {
                write!(f, "connection opened conn={} session={} peer={peer} suite={suite}", conn.0, session.0)
            }
            What::ConnectionClosed { conn, session, peer, reason } => write!(
                f,
                "connection closed conn={} session={} peer={peer} reason={} fault={:?}",
                conn.0,
                session.0,
                reason.label(),
                reason.fault()
            ),
            What::LoginRefused { peer, hub, user, refusal } => write!(
                f,
                "login refused peer={peer} hub={} user={} reason={}",
                Escaped(hub),
                Escaped(user),
                refusal.label()
            ),
            What::DropSample { worker, reason, count } => {
                write!(f, "frames dropped worker={worker} reason={} count={count}", reason.label())
            }
            What::Router { hub, event } => write!(f, "{} hub={}", RouterWords(event), Escaped(hub)),
            What::ConfigChanged { epoch, source } => {
                write!(f, "configuration changed epoch={epoch} source={}", Escaped(source))
            }
        }
    }
}

struct TrafficWords<'t>(&'t Traffic);

impl fmt::Display for TrafficWords<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Traffic { frames_in, bytes_in, frames_out, bytes_out } = self.0;
        write!(f, " frames_in={frames_in} bytes_in={bytes_in} frames_out={frames_out} bytes_out={bytes_out}")
    }
}

/// Text from the network, fit for a line or a terminal: in quotes, with everything that is not printable
/// (line breaks, escape codes, marks that turn the writing direction) as `\n` or `\u{…}`.
#[derive(Clone, Copy, Debug)]
pub struct Escaped<'s>(pub &'s str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// Target of all event lines, for filters.
const TARGET: &str = "hublane::event";

/// Events that may wait for the log thread: some seconds of a busy start, 2 MiB at most with the places kept.
pub const ROOM: usize = 8192;

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::event::{Refusal, Stamp};
    use crate::gateway::GatewayEvent;
    use crate::gateway::bindings::Binding;
    use crate::gateway::dhcp::{DhcpEvent, LeaseEnd};
    use crate::ids::{ConnId, MemberId, PortId, SessionId};
    use crate::metrics::closes::CloseReason;
    use crate::metrics::drops::DropReason;
    use crate::nat::{Insider, NatEvent};
    use crate::tick::Tick;
    use crate::wire::ethernet::Mac;
    use crate::worker::router::RouterEvent;

    fn event(what: What) -> Event {
        Event { at: Stamp::now(Tick::from_ms(1)), what }
    }

    fn refused(user: &str) -> Event {
        let peer = "192.0.2.1:5".parse().unwrap();
        event(What::LoginRefused { peer, hub: "PUBLIC".into(), user: user.into(), refusal: Refusal::Failed })
    }

    #[test]
    fn one_event_is_one_printable_line() {
        let hostile =
            ["a\nlogin ok", "\r\u{1b}[2J", "\u{9b}31m", "\u{202e}evil", "\u{2028}", "\0", "a\" user=\"b", "\\"];
        for name in hostile.iter().map(ToString::to_string).chain(["é".repeat(127)]) {
            let line = Line(&refused(&name)).to_string();
            assert!(!line.chars().any(|c| c.is_control() || "\u{202e}\u{2028}".contains(c)), "{line}");
            let quoted = line.split("user=").nth(1).unwrap();
            assert!(quoted.starts_with('"') && line.ends_with("\" reason=failed"), "{line}");
        }
        assert!(Line(&refused("a\" user=\"b")).to_string().contains(r#"user="a\" user=\"b" "#));
    }

    #[test]
    fn every_kind_has_a_line() {
        let peer = "[2001:db8::1]:7".parse().unwrap();
        let (session, conn) = (SessionId(1), ConnId(2));
        let traffic = Traffic { frames_in: 1, bytes_in: 2, frames_out: 3, bytes_out: 4 };
        let name: Arc<str> = "n".into();
        let opened = What::SessionOpened {
            session,
            name: name.clone(),
            member: MemberId(5),
            user: name.clone(),
            hub: name.clone(),
            worker: 1,
            client: name.clone(),
        };
        let suite = "TLS13_AES_128_GCM_SHA256";
        for (what, want) in [
            (opened, r#"session opened session=1 name="n" member=5 user="n" hub="n" worker=1 client="n""#),
            (
                What::SessionClosed { session, reason: CloseReason::Timeout, traffic },
                "session closed session=1 reason=timeout frames_in=1 bytes_in=2 frames_out=3 bytes_out=4",
            ),
            (
                What::ConnectionOpened { conn, session, peer, suite },
                "connection opened conn=2 session=1 peer=[2001:db8::1]:7 suite=TLS13_AES_128_GCM_SHA256",
            ),
            (
                What::ConnectionClosed { conn, session, peer, reason: CloseReason::PeerEof },
                "connection closed conn=2 session=1 peer=[2001:db8::1]:7 reason=peer_eof fault=Peer",
            ),
            (
                What::DropSample { worker: 1, reason: DropReason::HubStorm, count: 9 },
                "frames dropped worker=1 reason=hub_storm count=9",
            ),
            (What::ConfigChanged { epoch: 2, source: name }, r#"configuration changed epoch=2 source="n""#),
        ] {
            assert_eq!(Line(&event(what)).to_string(), want);
        }
    }

    #[test]
    fn a_full_channel_loses_and_counts() {
        let (sender, received) = EventSender::channel(2);
        for _ in 0..5 {
            sender.send(refused("u"));
        }
        assert_eq!((sender.lost(), received.len()), (3, 2));
    }

    /// However much chatter waits, who was where still has room; the order stays.
    #[test]
    fn who_was_where_has_places_of_its_own() {
        let insider = Insider { address: Ipv4Addr::new(100, 64, 0, 5), member: MemberId(5), session: SessionId(7) };
        let router = |told: RouterEvent| event(What::Router { hub: "H".into(), event: Box::new(told) });
        let binding =
            Binding { mac: Mac([2; 6]), port: PortId::new(0, 1, 1), session: SessionId(7), member: MemberId(5) };
        let (address, mac, secs) = (insider.address, binding.mac, 60);
        let traces = [
            RouterEvent::Nat(NatEvent::SessionChanged { insider }),
            RouterEvent::Gateway(GatewayEvent::Dhcp(DhcpEvent::Granted { address, binding, secs })),
            RouterEvent::Gateway(GatewayEvent::Dhcp(DhcpEvent::Ended {
                address,
                member: MemberId(5),
                mac,
                why: LeaseEnd::Expired,
            })),
            RouterEvent::Gateway(GatewayEvent::Bound { address, before: None, after: Some(binding) }),
        ];
        let chatter = [
            RouterEvent::Nat(NatEvent::Refused { insider, reason: DropReason::HubStorm }),
            RouterEvent::Gateway(GatewayEvent::Dhcp(DhcpEvent::Renewed { address, binding, secs })),
            RouterEvent::Gateway(GatewayEvent::Dhcp(DhcpEvent::Conflict { address, by: mac, declined: true })),
        ];
        let (sender, received) = EventSender::channel(4);
        for _ in 0..10 {
            chatter.iter().for_each(|event| sender.send(router(event.clone())));
        }
        assert_eq!((sender.lost(), received.len()), (26, 4));
        traces.iter().for_each(|event| sender.send(router(event.clone())));
        assert_eq!((sender.lost(), received.len()), (26, 8), "none of them is lost");
        sender.send(router(traces[0].clone()));
        assert_eq!(sender.lost(), 27, "bounded all the same");
        let last: Vec<_> = received.try_iter().skip(4).map(|event| event.what).collect();
        let wanted = traces.map(|event| router(event).what);
        assert_eq!(last, wanted);
    }

    #[test]
    fn the_thread_ends_with_its_senders() {
        let (sender, thread) = start(4).unwrap();
        sender.clone().send(refused("u"));
        drop(sender);
        thread.join().unwrap();
    }
}
