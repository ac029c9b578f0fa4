//! Mode `echo`: the far end of mode `nat`, for any number of addresses, without a socket for each.
//!
//! ```text
//! SYN      -> SYN, ACK; its sequence number says where the SYN came from: port, and the low half of the address
//! data     -> the same data back
//! FIN      -> FIN, ACK
//! datagram -> the same back, and behind it where it came from: address and port
//! ```
//!
//! It keeps nothing between packets. Packets are read below the kernel's own IP, which must neither forward nor have the
//! addresses, so that it says nothing to them; answers leave by a raw socket.

use std::error::Error;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddrV4};

use clap::Args;
use hublane::sys::affinity::pin_current_thread;
use hublane::wire::ipv4;
use hublane::wire::tcp::{FLAG_ACK, FLAG_SYN};
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::nat_wire::{Arrival, Ends, FLAG_FIN, FLAG_PSH, FLAG_RST, Segment, read_packet, tcp_packet, udp_packet};

/// Options of the mode.
#[derive(Args)]
pub(crate) struct Echo {
    /// First address to answer for.
    #[arg(long, value_name = "ADDR")]
    pub(crate) first: Ipv4Addr,
    /// How many addresses.
    #[arg(long, default_value_t = 100, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=65_536))]
    pub(crate) addresses: u32,
    /// CPU to run on.
    #[arg(long, value_name = "CPU")]
    pub(crate) cpu: Option<usize>,
}

impl Echo {
    /// Runs until it is killed.
    pub(crate) fn run(&self) -> Result<(), Box<dyn Error>> {
        if let Some(cpu) = self.cpu {
            pin_current_thread(cpu)?;
        }
        let denied = |error| format!("packets cannot be read here: {error} (takes root)");
        let ethertype = i32::from(ipv4::ETHERTYPE.to_be());
        // Datagrams of the packet family begin at the IP header.
        let input = Socket::new(Domain::PACKET, Type::DGRAM, Some(Protocol::from(ethertype))).map_err(denied)?;
        let output = Socket::new(Domain::IPV4, Type::RAW, Some(Protocol::from(RAW))).map_err(denied)?;
        // The system takes as much of it as it allows: members come all at once.
        input.set_recv_buffer_size(64 << 20)?;
        println!("ready");
        let mut bytes = vec![0; 65_536];
        loop {
            let length = match (&input).read(&mut bytes) {
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error.into()),
            };
            let Some((to, packet)) = self.answer(&bytes[..length]) else { continue };
            // What finds no room is sent again by who misses it.
            let _ = output.send_to(&packet, &SockAddr::from(SocketAddrV4::new(to, 0)));
        }
    }

    /// What goes back, and to whom.
    pub(crate) fn answer(&self, packet: &[u8]) -> Option<(Ipv4Addr, Vec<u8>)> {
        match read_packet(packet) {
            Arrival::Udp(ends, payload) if self.is_here(ends.dst) => {
                let mut back = payload.to_vec();
                back.extend_from_slice(&ends.src.octets());
                back.extend_from_slice(&ends.src_port.to_be_bytes());
                Some((ends.src, udp_packet(ends.back(), &back)))
            }
            Arrival::Tcp(ends, segment, payload) if self.is_here(ends.dst) => {
                let back = reply(ends, segment, payload)?;
                let payload = if segment.flags & FLAG_SYN == 0 { payload } else { &[] };
                Some((ends.src, tcp_packet(ends.back(), back, payload)))
            }
            _ => None,
        }
    }

    fn is_here(&self, address: Ipv4Addr) -> bool {
        u32::from(address).wrapping_sub(u32::from(self.first)) < self.addresses
    }
}

/// A SYN tells where it came from by the number that the answer begins with.
pub(crate) fn seen(address: Ipv4Addr, port: u16) -> u32 {
    let [.., high, low] = address.octets();
    u32::from(port) << 16 | u32::from(u16::from_be_bytes([high, low]))
}

fn reply(ends: Ends, segment: Segment, payload: &[u8]) -> Option<Segment> {
    let length = u32::try_from(payload.len()).ok()?;
    let Segment { seq, ack, flags } = segment;
    if flags & FLAG_RST != 0 {
        None
    } else if flags & FLAG_SYN != 0 {
        Some(Segment { seq: seen(ends.src, ends.src_port), ack: seq.wrapping_add(1), flags: FLAG_SYN | FLAG_ACK })
    } else if flags & FLAG_FIN != 0 {
        Some(Segment { seq: ack, ack: seq.wrapping_add(length + 1), flags: FLAG_FIN | FLAG_ACK })
    } else {
        (length > 0).then_some(Segment { seq: ack, ack: seq.wrapping_add(length), flags: FLAG_PSH | FLAG_ACK })
    }
}

/// The protocol number of raw sockets that write their own headers (IPPROTO_RAW).
const RAW: i32 = 255;

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: Echo = Echo { first: Ipv4Addr::new(198, 51, 100, 100), addresses: 2, cpu: None };
    const ENDS: Ends = Ends {
        src: Ipv4Addr::new(203, 0, 113, 10),
        src_port: 0x1234,
        dst: Ipv4Addr::new(198, 51, 100, 101),
        dst_port: 80,
    };

    #[test]
    fn a_syn_learns_how_it_is_seen() {
        let syn = tcp_packet(ENDS, Segment { seq: 99, ack: 0, flags: FLAG_SYN }, &[]);
        let (to, packet) = HERE.answer(&syn).unwrap();
        assert_eq!(to, ENDS.src);
        let expected = Segment { seq: 0x1234_710a, ack: 100, flags: FLAG_SYN | FLAG_ACK };
        assert_eq!(read_packet(&packet), Arrival::Tcp(ENDS.back(), expected, &[]));
    }

    #[test]
    fn data_comes_back_and_an_acknowledgement_does_not() {
        let data = tcp_packet(ENDS, Segment { seq: 100, ack: 500, flags: FLAG_ACK }, b"hello");
        let (_, packet) = HERE.answer(&data).unwrap();
        let expected = Segment { seq: 500, ack: 105, flags: FLAG_PSH | FLAG_ACK };
        assert_eq!(read_packet(&packet), Arrival::Tcp(ENDS.back(), expected, b"hello"));
        assert!(HERE.answer(&tcp_packet(ENDS, Segment { seq: 100, ack: 500, flags: FLAG_ACK }, &[])).is_none());
    }

    #[test]
    fn others_addresses_are_not_answered_for() {
        for (last, here) in [(99, false), (100, true), (101, true), (102, false)] {
            let ends = Ends { dst: Ipv4Addr::new(198, 51, 100, last), ..ENDS };
            assert_eq!(HERE.answer(&udp_packet(ends, b"x")).is_some(), here, "{last}");
        }
    }
}
