//! A member's operating system, as far as it takes to get on the Internet: DHCP (RFC 2131 §4.4.1), then who the router
//! is (ARP). Time is an argument.

use std::net::Ipv4Addr;
use std::time::Duration;

use hublane::tick::Tick;
use hublane::wire::arp::{Arp, Operation};
use hublane::wire::ethernet::Mac;

use crate::nat_wire::{ACK, Arrival, NAK, OFFER, Reply, dhcp_frame};

/// One member.
pub(crate) struct Client {
    mac: Mac,
    xid: u32,
    stage: Stage,
    /// When it began.
    began: Tick,
    /// When it asks again.
    again: Tick,
    /// Questions sent again.
    pub(crate) retries: u32,
    /// NAKs heard.
    pub(crate) refused: u32,
}

/// How far it has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Not begun.
    Off,
    Discovering,
    /// With the offer that it took.
    Requesting(Reply),
    /// With its lease, looking for the router.
    Resolving(Reply),
    /// With its lease and the router's card.
    Ready(Reply, Mac),
}

impl Client {
    /// Member `number` with the card `mac`; it begins when [`Self::start`] says so.
    pub(crate) fn new(number: usize, mac: Mac) -> Self {
        let xid = u32::try_from(number).unwrap_or(u32::MAX).wrapping_mul(0x9e37_79b1) ^ 0x5eed_0001;
        Self { mac, xid, stage: Stage::Off, began: Tick(0), again: Tick(0), retries: 0, refused: 0 }
    }

    /// Begins; the frame to send.
    pub(crate) fn start(&mut self, now: Tick) -> Vec<u8> {
        (self.stage, self.began, self.again) = (Stage::Discovering, now, now + AGAIN_FIRST);
        dhcp_frame(self.mac, self.xid, None)
    }

    /// Its address, once it has one.
    pub(crate) fn address(&self) -> Option<Ipv4Addr> {
        match self.stage {
            Stage::Resolving(lease) | Stage::Ready(lease, _) => Some(lease.address),
            _ => None,
        }
    }

    /// Address and router's card, once it has both.
    pub(crate) fn ready(&self) -> Option<(Ipv4Addr, Mac)> {
        match self.stage {
            Stage::Ready(lease, router) => Some((lease.address, router)),
            _ => None,
        }
    }

    /// Its card.
    pub(crate) fn mac(&self) -> Mac {
        self.mac
    }

    /// What came from a server or by ARP. The frame to send; how long the lease took, when it is there.
    pub(crate) fn hear(&mut self, arrival: &Arrival<'_>, now: Tick) -> (Option<Vec<u8>>, Option<Duration>) {
        match (arrival, self.stage) {
            (Arrival::Dhcp(reply), _) if reply.xid != self.xid => (None, None),
            (Arrival::Dhcp(reply), Stage::Discovering) if reply.kind == OFFER => {
                (self.stage, self.again) = (Stage::Requesting(*reply), now + AGAIN_FIRST);
                (Some(dhcp_frame(self.mac, self.xid, Some(*reply))), None)
            }
            (Arrival::Dhcp(reply), Stage::Requesting(_)) if reply.kind == ACK => {
                (self.stage, self.again) = (Stage::Resolving(*reply), now + AGAIN_FIRST);
                (Some(self.whois(*reply)), Some(now.since(self.began)))
            }
            (Arrival::Dhcp(reply), Stage::Requesting(_)) if reply.kind == NAK => {
                self.refused += 1;
                (self.stage, self.again) = (Stage::Discovering, now + AGAIN_FIRST);
                (Some(dhcp_frame(self.mac, self.xid, None)), None)
            }
            (Arrival::Arp(arp), _) => (self.hear_arp(arp), None),
            _ => (None, None),
        }
    }

    fn hear_arp(&mut self, arp: &Arp) -> Option<Vec<u8>> {
        match (arp.operation, self.stage) {
            (Operation::Reply, Stage::Resolving(lease)) if arp.sender == lease.router => {
                self.stage = Stage::Ready(lease, arp.sender_mac);
                None
            }
            (Operation::Request, _) if Some(arp.target) == self.address() && arp.sender_mac != self.mac => {
                let answer = Arp {
                    operation: Operation::Reply,
                    sender_mac: self.mac,
                    sender: arp.target,
                    target_mac: arp.sender_mac,
                    target: arp.sender,
                };
                Some(answer.to_frame(arp.sender_mac).to_vec())
            }
            _ => None,
        }
    }

    /// What it asks again because nobody answered.
    pub(crate) fn poll(&mut self, now: Tick) -> Option<Vec<u8>> {
        if now < self.again {
            return None;
        }
        let question = match self.stage {
            Stage::Off | Stage::Ready(..) => return None,
            Stage::Discovering => dhcp_frame(self.mac, self.xid, None),
            Stage::Requesting(offer) => dhcp_frame(self.mac, self.xid, Some(offer)),
            Stage::Resolving(lease) => self.whois(lease),
        };
        self.retries += 1;
        self.again = now + AGAIN_FIRST * 2;
        Some(question)
    }

    fn whois(&self, lease: Reply) -> Vec<u8> {
        let arp = Arp {
            operation: Operation::Request,
            sender_mac: self.mac,
            sender: lease.address,
            target_mac: Mac([0; 6]),
            target: lease.router,
        };
        arp.to_frame(Mac::BROADCAST).to_vec()
    }
}

/// Silence after which it asks again; then twice as long.
const AGAIN_FIRST: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nat_wire::read;

    const SERVER: Mac = Mac([2, 0, 0, 0, 0, 1]);

    fn says(client: &Client, kind: u8) -> Arrival<'static> {
        Arrival::Dhcp(Reply {
            kind,
            xid: client.xid,
            address: Ipv4Addr::new(100, 64, 0, 9),
            server: Ipv4Addr::new(100, 64, 0, 1),
            router: Ipv4Addr::new(100, 64, 0, 1),
        })
    }

    fn router_is_at(mac: Mac) -> Arrival<'static> {
        Arrival::Arp(Arp {
            operation: Operation::Reply,
            sender_mac: mac,
            sender: Ipv4Addr::new(100, 64, 0, 1),
            target_mac: Mac([0; 6]),
            target: Ipv4Addr::new(100, 64, 0, 9),
        })
    }

    #[test]
    fn it_gets_a_lease_and_finds_the_router() {
        let mut client = Client::new(4, Mac([2, 0, 0, 0, 0, 4]));
        client.start(Tick(1000));
        assert!(client.hear(&says(&client, ACK), Tick(2000)).0.is_none(), "an ACK that nobody asked for");
        assert!(client.hear(&says(&client, OFFER), Tick(2000)).0.is_some());
        let (question, took) = client.hear(&says(&client, ACK), Tick(5000));
        assert_eq!(took, Some(Duration::from_nanos(4000)));
        assert!(matches!(read(&question.unwrap()), Arrival::Arp(arp) if arp.target == Ipv4Addr::new(100, 64, 0, 1)));
        assert_eq!(client.ready(), None);
        client.hear(&router_is_at(SERVER), Tick(6000));
        assert_eq!(client.ready(), Some((Ipv4Addr::new(100, 64, 0, 9), SERVER)));
    }

    #[test]
    fn it_asks_again_and_answers_for_its_address() {
        let mut client = Client::new(4, Mac([2, 0, 0, 0, 0, 4]));
        assert!(client.poll(Tick(0) + AGAIN_FIRST).is_none(), "it has not begun");
        client.start(Tick(0));
        assert!(client.poll(Tick(1)).is_none());
        assert!(client.poll(Tick(0) + AGAIN_FIRST).is_some());
        assert_eq!(client.retries, 1);
        client.hear(&says(&client, OFFER), Tick(0));
        let probe = |target| {
            Arrival::Arp(Arp {
                operation: Operation::Request,
                sender_mac: SERVER,
                sender: Ipv4Addr::UNSPECIFIED,
                target_mac: Mac([0; 6]),
                target,
            })
        };
        assert!(client.hear(&probe(Ipv4Addr::new(100, 64, 0, 9)), Tick(0)).0.is_none(), "not yet its own");
        client.hear(&says(&client, ACK), Tick(0));
        assert!(client.hear(&probe(Ipv4Addr::new(100, 64, 0, 9)), Tick(0)).0.is_some());
        assert!(client.hear(&probe(Ipv4Addr::new(100, 64, 0, 8)), Tick(0)).0.is_none());
    }

    #[test]
    fn a_refusal_begins_anew() {
        let mut client = Client::new(4, Mac([2, 0, 0, 0, 0, 4]));
        client.start(Tick(0));
        client.hear(&says(&client, OFFER), Tick(0));
        client.hear(&says(&client, NAK), Tick(0));
        assert_eq!((client.refused, client.stage), (1, Stage::Discovering));
    }
}
