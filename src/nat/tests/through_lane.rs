//! The same tests with a lane of AF_XDP sockets between the NAT and the Internet: `HUBLANE_TEST_LANE=xdp`.
//!
//! Every packet that a test sends from outside is put on a real device in a network namespace of the test's own; what
//! the XDP program and the lane make of it goes to the NAT. What the NAT sends goes out by the lane, and the test sees
//! what has arrived on the other side. A packet that the program leaves to the host, which dedicated addresses never
//! are, or that no device carries (super-packets, longer than the MTU), goes to the NAT as without the lane.
#![forbid(unsafe_code)]

use std::cell::RefCell;
use std::net::Ipv4Addr;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};

use crate::lane::any::AnyLaneIo;
use crate::lane::choice::LaneSteer;
use crate::lane::filter::LaneFilter;
use crate::lane::outlet::Outlet;
use crate::lane::uplink::{Ownership, Shared, UplinkSettings};
use crate::lane::xdp::{self, XdpSettings};
use crate::lane::{Lane, LaneIo};
use crate::nat::NatPlan;
use crate::sys::bpf::Base;
use crate::sys::bpf::Program;
use crate::sys::netdev::Devices;
use crate::sys::packet::{Options, PacketSocket};
use crate::sys::vnet::VnetHeader;
use crate::sys::xsk::Copying;
use crate::tick::Tick;
use crate::wire::arp::{Arp, FRAME_BYTES, Operation};
use crate::wire::checksum::Sum;
use crate::wire::ethernet::{HEADER_BYTES, Mac};
use crate::wire::ipv4::{self, Ipv4};
use crate::wire::offload::Offload;

/// A device, its lane, and a socket at its other end.
pub(super) struct RealLane {
    /// Which pair of devices.
    wire: usize,
    lane: Lane<AnyLaneIo>,
    far: PacketSocket,
    card: Mac,
    addresses: Vec<Ipv4Addr>,
    /// How many frames the program has decided about.
    decided: u64,
}

impl RealLane {
    /// If the environment asks for it.
    pub(super) fn wanted(plan: &NatPlan) -> Option<Self> {
        let wanted = std::env::var("HUBLANE_TEST_LANE").ok()?;
        assert_eq!(wanted, "xdp", "HUBLANE_TEST_LANE is xdp or not set");
        Some(Self::new(plan))
    }

    fn new(plan: &NatPlan) -> Self {
        let wire = WIRES.with_borrow_mut(Wires::take);
        let addresses: Vec<Ipv4Addr> = plan.addresses().collect();
        let filter =
            LaneFilter { addresses: addresses.clone(), dedicated: true, slices: Vec::new(), statics: Vec::new() };
        let settings = XdpSettings {
            device: format!("near{wire}"),
            filter,
            workers: 1,
            generic: false,
            copying: Copying::Copy,
            busy_poll: None,
            tx_checksum: false,
            steer: LaneSteer::Handoff,
            steer_or_fail: false,
            remarks: Vec::new(),
            asks_for_host: false,
        };
        let io = xdp::open(settings).expect("a lane").pop().expect("one worker");
        let uplink = UplinkSettings {
            ownership: Ownership::Dedicated { probe: false },
            network: (NEXT_HOP, 32),
            next_hop: Some(NEXT_HOP),
            ask_from: addresses[0],
            addresses: addresses.clone(),
        };
        let shared = Arc::new(Shared::new(&uplink));
        let lane = Lane::new(AnyLaneIo::Xdp(Box::new(io)), uplink, shared, 0, 1, NOW);
        let devices = Devices::new().unwrap();
        let options = Options { receive_bytes: 1 << 20, send_bytes: 1 << 20, frames: 64, qdisc_bypass: true };
        let far = PacketSocket::open(devices.find(&format!("far{wire}")).unwrap().index, options).unwrap();
        let mut everything = Program::new();
        everything.ret(u32::MAX);
        far.set_filter(&everything.classic(Base::Ethernet).unwrap()).unwrap();
        let card = devices.find(&format!("near{wire}")).unwrap().mac;
        let mut real = Self { wire, lane, far, card, addresses: addresses.clone(), decided: 0 };
        assert!(real.lane.link().up);
        real.lane.poll(NOW);
        real.know_next_hop(addresses[0]);
        real.seen();
        real
    }

    /// The lane learns the card of its next hop, as it would: a packet waits for it, and the answer comes through the
    /// program.
    fn know_next_hop(&mut self, address: Ipv4Addr) {
        let nothing = ipv4::header(address, Ipv4Addr::new(198, 51, 100, 1), 255, 64, 0);
        self.lane.push(&nothing, Offload::NONE, NOW);
        self.lane.flush(NOW);
        let answer = Arp {
            operation: Operation::Reply,
            sender_mac: FAR_CARD,
            sender: NEXT_HOP,
            target_mac: self.card,
            target: address,
        };
        let frame: [u8; FRAME_BYTES] = answer.to_frame(self.card);
        assert!(self.put(&frame).is_none());
        self.lane.flush(NOW);
    }

    /// A frame on the wire; the packet that comes out of the lane, if one does.
    fn put(&mut self, frame: &[u8]) -> Option<(Vec<u8>, Offload)> {
        let mut frames = Some((VnetHeader::default(), std::iter::once(frame)));
        let (sent, error) = self.far.send(|| frames.take());
        assert_eq!(sent, 1, "{error:?}");
        let mut got = None;
        for _ in 0..1_000 {
            let received = self.lane.receive(8, NOW, &mut |_: &mut Outlet, packet: &mut [u8], offload: Offload| {
                assert!(got.replace((packet.to_vec(), offload)).is_none(), "one packet came as two");
            });
            let decided = self.decisions();
            if decided > self.decided && received.frames == 0 {
                self.decided = decided;
                return got;
            }
        }
        panic!("the program has not seen the frame");
    }

    fn decisions(&mut self) -> u64 {
        self.lane.io().report().decisions.iter().map(|(_, count)| count).sum()
    }

    /// What arrives when `packet` comes from outside; `None` if it does not go by the lane.
    pub(super) fn arrive(&mut self, packet: &[u8], offload: Offload) -> Option<(Vec<u8>, Offload)> {
        if offload.segment_bytes > 0 || packet.len() > MTU {
            return None;
        }
        let malformed = self.lane.stats().drop_rx_malformed;
        let got = self.put(&[&header(self.card, FAR_CARD)[..], packet].concat());
        let is_ours = Ipv4::new_checked(packet).is_some_and(|ip| self.addresses.contains(&ip.dst()));
        let is_refused = self.lane.stats().drop_rx_malformed > malformed;
        assert!(got.is_some() || is_refused || !is_ours, "a packet for us got lost on its way: {packet:02x?}");
        got
    }

    /// Whether a device carries `packet` as it is.
    pub(super) fn carries(packet: &[u8], offload: Offload) -> bool {
        offload.segment_bytes == 0 && packet.len() <= MTU
    }

    /// What the other side sees when the NAT sends `packet`.
    pub(super) fn leave(&mut self, packet: &[u8], offload: Offload) -> Vec<u8> {
        self.lane.push(packet, offload, NOW);
        self.lane.flush(NOW);
        let mut seen = self.seen();
        assert_eq!(seen.len(), 1, "{packet:02x?} {:?}", self.lane.stats());
        let frame = seen.remove(0);
        assert_eq!(frame[..HEADER_BYTES], header(FAR_CARD, self.card));
        let packet = &frame[HEADER_BYTES..];
        packet[..Ipv4::new_checked(packet).unwrap().total_bytes()].to_vec()
    }

    /// What has arrived at the other end, whole.
    fn seen(&mut self) -> Vec<Vec<u8>> {
        let (count, _) = self.far.receive(64).unwrap();
        let mut frames = Vec::new();
        for index in 0..count {
            let (header, frame) = self.far.frame(index).unwrap();
            if header.needs_checksum {
                let start = usize::from(header.checksum_start);
                let sum = Sum::ZERO.bytes(&frame[start..]).finish();
                frame[start + usize::from(header.checksum_offset)..][..2].copy_from_slice(&sum.to_be_bytes());
            }
            frames.push(frame.to_vec());
        }
        frames
    }
}

impl Drop for RealLane {
    fn drop(&mut self) {
        WIRES.with_borrow_mut(|wires| wires.free.push(self.wire));
    }
}

/// Pairs of devices in a namespace of this thread, that is, of this test.
#[derive(Default)]
struct Wires {
    made: usize,
    free: Vec<usize>,
}

impl Wires {
    /// Number of a pair that nobody has.
    fn take(&mut self) -> usize {
        if let Some(number) = self.free.pop() {
            return number;
        }
        if self.made == 0 {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace; is this root?");
        }
        let number = self.made;
        self.made += 1;
        ip(&format!("link add near{number} type veth peer name far{number}"));
        for end in ["near", "far"] {
            // Nobody else shall speak on this wire.
            ip(&format!("link set {end}{number} arp off addrgenmode none"));
        }
        for end in ["near", "far"] {
            ip(&format!("link set {end}{number} up"));
        }
        // The kernel tells of a carrier when it comes to it.
        let devices = Devices::new().unwrap();
        let is_up = |_| {
            thread::sleep(Duration::from_millis(10));
            ["near", "far"].iter().all(|end| devices.find(&format!("{end}{number}")).unwrap().up)
        };
        assert!((0..500).any(is_up), "no carrier");
        number
    }
}

thread_local! {
    static WIRES: RefCell<Wires> = RefCell::default();
}

fn header(dst: Mac, src: Mac) -> [u8; HEADER_BYTES] {
    let mut header = [0; HEADER_BYTES];
    header[..6].copy_from_slice(&dst.0);
    header[6..12].copy_from_slice(&src.0);
    header[12..].copy_from_slice(&ipv4::ETHERTYPE.to_be_bytes());
    header
}

/// `ip WORDS`, in the namespace of this thread.
fn ip(words: &str) {
    let status = Command::new("ip").args(words.split(' ')).status().expect("iproute2");
    assert!(status.success(), "ip {words}");
}

const NEXT_HOP: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const FAR_CARD: Mac = Mac([2, 0, 0, 0, 7, 7]);
const MTU: usize = 1500;
/// Time stands still here: the next hop stays known.
const NOW: Tick = Tick::from_ms(1);
