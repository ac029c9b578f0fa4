//! Replies: which options stand in them, and where they go (RFC 2131 §4.1, §4.3.1).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::lease::Index;
use super::options::{Asked, fqdn_reply};
use super::{DhcpRequest, DhcpServer, DhcpSink, next_random, relay};
use crate::wire::checksum::Sum;
use crate::wire::dhcp::{CLIENT_PORT, MESSAGE_BYTES_MAX, MessageType, ReplyBuilder, SERVER_PORT, code};
use crate::wire::ethernet::{HEADER_BYTES, Mac};
use crate::wire::{ipv4, udp};

/// A reply and where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DhcpReply<'a> {
    /// Destination of the frame.
    pub dst_mac: Mac,
    /// Source of the packet: the server's address.
    pub src: Ipv4Addr,
    /// Destination of the packet.
    pub dst: Ipv4Addr,
    /// UDP destination port: 68 for clients, 67 for relays. The source is 67.
    pub dst_port: u16,
    /// What is in the UDP datagram.
    pub payload: &'a [u8],
}

/// Longest frame a reply makes.
pub const REPLY_FRAME_BYTES_MAX: usize = HEADER_BYTES + ipv4::HEADER_BYTES_MIN + udp::HEADER_BYTES + MESSAGE_BYTES_MAX;

impl DhcpReply<'_> {
    /// The reply as an Ethernet frame from `src_mac`, in `frame`; its length.
    pub fn write_frame(&self, src_mac: Mac, frame: &mut [u8; REPLY_FRAME_BYTES_MAX]) -> usize {
        const IP: usize = HEADER_BYTES;
        const UDP: usize = IP + ipv4::HEADER_BYTES_MIN;
        const DATA: usize = UDP + udp::HEADER_BYTES;
        let payload = &self.payload[..self.payload.len().min(MESSAGE_BYTES_MAX)];
        let datagram = u16::try_from(udp::HEADER_BYTES + payload.len()).unwrap_or(0);
        frame[..6].copy_from_slice(&self.dst_mac.0);
        frame[6..12].copy_from_slice(&src_mac.0);
        frame[12..IP].copy_from_slice(&ipv4::ETHERTYPE.to_be_bytes());
        frame[IP..UDP].copy_from_slice(&ipv4::header(self.src, self.dst, udp::PROTOCOL, TTL, datagram));
        for (at, word) in [(0, SERVER_PORT), (2, self.dst_port), (4, datagram), (6, 0)] {
            frame[UDP + at..UDP + at + 2].copy_from_slice(&word.to_be_bytes());
        }
        let end = DATA + payload.len();
        frame[DATA..end].copy_from_slice(payload);
        let sum = Sum::pseudo(self.src, self.dst, udp::PROTOCOL, datagram).bytes(&frame[UDP..end]).finish();
        // Zero would mean that there is none (RFC 768).
        let sum = if sum == 0 { u16::MAX } else { sum };
        frame[UDP + 6..DATA].copy_from_slice(&sum.to_be_bytes());
        end
    }
}

/// What is to be said.
#[derive(Clone, Copy, Debug)]
pub(super) struct Answer {
    pub(super) what: MessageType,
    /// The address given.
    pub(super) at: Option<Index>,
    pub(super) lease_secs: Option<u32>,
    pub(super) durable: Option<u64>,
}

impl DhcpServer {
    /// Builds the reply and gives it to `sink`.
    pub(super) fn send(
        &mut self,
        request: &DhcpRequest<'_>,
        asked: &Asked<'_>,
        answer: Answer,
        sink: &mut impl DhcpSink,
    ) {
        let relayed = relay::echoed(asked, request.origin);
        let kept = relayed.map_or(0, |value| value.len() + 2 * value.len().div_ceil(255).max(1));
        let mut reply = ReplyBuilder::new(asked.message, asked.bytes_max, kept);
        let yiaddr = answer.at.map(|at| self.table.address(at));
        let is_nak = answer.what == MessageType::Nak;
        reply.put(code::MESSAGE_TYPE, &[answer.what as u8]);
        reply.put(code::SERVER_ID, &self.settings.server.octets());
        if let Some(yiaddr) = yiaddr {
            reply.set_yiaddr(yiaddr);
        }
        if answer.what == MessageType::Ack {
            reply.set_ciaddr(asked.message.ciaddr());
        }
        if let Some(secs) = answer.lease_secs {
            self.put_times(&mut reply, secs);
        }
        if let Some(id) = asked.client_id {
            // RFC 6842.
            reply.put(code::CLIENT_ID, id);
        }
        if is_nak {
            reply.put(code::TEXT, b"this address is not yours");
            if !asked.message.giaddr().is_unspecified() {
                // The relay must not send it to an address the client shall not have.
                reply.set_broadcast();
            }
        } else {
            self.put_told(&mut reply, asked, answer.at);
        }
        let payload = reply.finish(relayed.map(|value| (code::RELAY_AGENT, value)));
        let (dst_mac, dst, dst_port) = destination(request, asked, yiaddr, is_nak);
        let reply = DhcpReply { dst_mac, src: self.settings.server, dst, dst_port, payload };
        sink.answer(request.origin.port, &reply, answer.durable);
    }

    fn put_times(&mut self, reply: &mut ReplyBuilder, secs: u32) {
        // After a restart all clients come back at once; who renews a little earlier each time does not stay with them.
        let spread = u64::from(secs / 2) * u64::from(self.settings.renew_spread_percent.min(90)) / 100;
        let earlier = if spread == 0 { 0 } else { next_random(&mut self.rng) % (spread + 1) };
        let renewal = secs / 2 - u32::try_from(earlier).unwrap_or(0);
        let rebinding = u32::try_from(u64::from(secs) * 7 / 8).unwrap_or(secs);
        for (code, secs) in [(code::LEASE_TIME, secs), (code::RENEWAL, renewal), (code::REBINDING, rebinding)] {
            reply.put(code, &secs.to_be_bytes());
        }
    }

    /// What the client wants to know, in its order (RFC 2132 §9.8), then what everybody is told.
    fn put_told(&self, reply: &mut ReplyBuilder, asked: &Asked<'_>, at: Option<Index>) {
        // What went into the reply before has its place there.
        let mut done = [false; 256];
        for code in [code::LEASE_TIME, code::RENEWAL, code::REBINDING, code::CLIENT_ID, code::RELAY_AGENT] {
            done[usize::from(code)] = true;
        }
        let fqdn = asked.fqdn.and_then(fqdn_reply);
        let mut put = |code: u8| {
            if std::mem::replace(&mut done[usize::from(code)], true) {
                return;
            }
            let value = match code {
                code::HOST_NAME => at.and_then(|at| self.reservations.host_name(at)).map(str::as_bytes),
                code::FQDN => fqdn.as_deref(),
                _ => self.told.value(code),
            };
            if let Some(value) = value.or_else(|| self.told.value(code)) {
                reply.put(code, value);
            }
        };
        let wants_mask = asked.parameters.contains(&code::SUBNET_MASK);
        for code in asked.parameters {
            // RFC 2132 §3.3: the mask comes before the router.
            if *code == code::ROUTER && wants_mask {
                put(code::SUBNET_MASK);
            }
            put(*code);
        }
        if asked.parameters.is_empty() || !self.settings.only_asked {
            USUAL.iter().for_each(|code| put(*code));
        }
        self.told.always.iter().for_each(|code| put(*code));
        // RFC 4702 §4: whoever sends the option gets it back.
        put(code::FQDN);
    }
}

fn destination(
    request: &DhcpRequest<'_>,
    asked: &Asked<'_>,
    yiaddr: Option<Ipv4Addr>,
    is_nak: bool,
) -> (Mac, Ipv4Addr, u16) {
    let (giaddr, ciaddr) = (asked.message.giaddr(), asked.message.ciaddr());
    let to_all = (Mac::BROADCAST, Ipv4Addr::BROADCAST, CLIENT_PORT);
    if !giaddr.is_unspecified() {
        // The relay, or a router on the way to it, is who the frame came from.
        return (request.src_mac, giaddr, SERVER_PORT);
    }
    if is_nak {
        return to_all;
    }
    if !ciaddr.is_unspecified() {
        return (request.src_mac, ciaddr, CLIENT_PORT);
    }
    match yiaddr {
        Some(yiaddr) if !asked.message.wants_broadcast() => (asked.message.chaddr(), yiaddr, CLIENT_PORT),
        // INFORM from a client that names its address only in the packet.
        None if !request.src.is_unspecified() => (request.src_mac, request.src, CLIENT_PORT),
        _ => to_all,
    }
}

/// For clients that do not say what they want, which are of BOOTP's days.
const USUAL: [u8; 6] =
    [code::SUBNET_MASK, code::ROUTER, code::DNS, code::HOST_NAME, code::DOMAIN_NAME, code::BROADCAST];

/// A client behind a relay is some hops away.
const TTL: u8 = 64;
