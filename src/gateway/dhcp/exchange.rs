//! The messages of a client (RFC 2131 §4.3), and what each does to the lease table.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;
use std::time::Duration;

use super::answer::Answer;
use super::choose::{Pick, Right};
use super::journal::HOST_NAME_BYTES_MAX;
use super::lease::Index;
use super::options::Asked;
use super::{
    CHANGES_PER_SEC, Client, DhcpEvent, DhcpRequest, DhcpServer, DhcpSink, LeaseEnd, LeaseState, Pending, binding,
};
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::dhcp::{MESSAGE_BYTES_MAX, MessageType};

type Outcome = Result<(), DropReason>;

impl DhcpServer {
    /// DISCOVER: an address is kept and offered, at once or after its probe.
    pub(super) fn discover(
        &mut self,
        request: &DhcpRequest<'_>,
        asked: &Asked<'_>,
        client: &Client<'_>,
        now: Tick,
        sink: &mut impl DhcpSink,
    ) -> Outcome {
        self.stats.discovers += 1;
        let Some(Pick { at, probe }) = self.choose(client, asked.requested) else {
            self.stats.pool_empty += 1;
            if !std::mem::replace(&mut self.is_exhausted, true) {
                sink.event(DhcpEvent::PoolEmpty { member: client.origin.member, session: client.origin.session });
            }
            return Err(DropReason::DhcpPoolEmpty);
        };
        // The others do not matter to whom the pool is empty: who has an address still gets it.
        self.is_exhausted &= self.table.spare(0).is_none();
        let place = self.table.place(at);
        let (state, until) = (place.state, place.until);
        match (state, place.holder) {
            (LeaseState::Leased, Some(holder)) => {
                // The lease runs on until somebody commits himself. Of a session that is over it is kept for this one.
                if holder.is_gone && holder.key != client.key {
                    let claimed = super::Holder { mac: holder.mac, key: holder.key, ..client.holder() };
                    self.table.hold(at, claimed, LeaseState::Leased, until);
                }
            }
            (LeaseState::Probing, _) => {
                self.table.hold(at, client.holder(), LeaseState::Probing, until);
                self.wait_for_probe(at, request);
                return Ok(());
            }
            _ if probe => {
                self.table.hold(at, client.holder(), LeaseState::Probing, now + self.settings.probe_wait);
                self.wait_for_probe(at, request);
                self.stats.probes += 1;
                sink.probe(self.table.address(at));
                return Ok(());
            }
            _ => self.table.hold(at, client.holder(), LeaseState::Offered, now + self.settings.offer_hold),
        }
        self.stats.offers += 1;
        let answer =
            Answer { what: MessageType::Offer, at: Some(at), lease_secs: Some(self.lease_secs(asked)), durable: None };
        self.send(request, asked, answer, sink);
        Ok(())
    }

    /// What does not fit is answered when the client asks again.
    fn wait_for_probe(&mut self, at: Index, request: &DhcpRequest<'_>) {
        let is_known = self.pending.contains_key(&at);
        if request.payload.len() <= MESSAGE_BYTES_MAX && (is_known || self.pending.len() < PENDING_MAX) {
            let DhcpRequest { origin, src_mac, src, dst, payload } = *request;
            self.pending.insert(at, Pending { origin: *origin, src_mac, src, dst, payload: payload.into() });
        }
    }

    /// REQUEST: which of four states the client is in shows in what it fills in (RFC 2131 table 4).
    pub(super) fn request(
        &mut self,
        request: &DhcpRequest<'_>,
        asked: &Asked<'_>,
        client: &Client<'_>,
        now: Tick,
        sink: &mut impl DhcpSink,
    ) -> Outcome {
        self.stats.requests += 1;
        let ciaddr = Some(asked.message.ciaddr()).filter(|ciaddr| !ciaddr.is_unspecified());
        let verdict = match (asked.server, asked.requested, ciaddr) {
            (Some(server), ..) if server != self.settings.server => {
                self.withdraw_offer(client, now);
                return Err(DropReason::DhcpOtherServer);
            }
            (Some(_), Some(address), None) => self.selecting(address, client),
            (None, Some(address), None) => self.init_reboot(address, client),
            (None, _, Some(address)) => self.keeping(address, client, request.dst == self.settings.server),
            _ => return Err(DropReason::DhcpMalformed),
        };
        match verdict {
            Verdict::Ack(at) => self.commit(at, request, asked, client, now, sink),
            Verdict::Nak => {
                self.stats.naks += 1;
                let answer = Answer { what: MessageType::Nak, at: None, lease_secs: None, durable: None };
                self.send(request, asked, answer, sink);
                Ok(())
            }
            Verdict::Silence => Err(DropReason::DhcpUnknownClient),
        }
    }

    fn withdraw_offer(&mut self, client: &Client<'_>, now: Tick) {
        let is_offered = |at: &Index| self.table.place(*at).state == LeaseState::Offered;
        let offered = self.own(client).filter(is_offered);
        if let Some(at) = offered {
            self.drop_offer(at, now);
        }
    }

    /// What is being offered, or probed in order to be, is free again.
    fn drop_offer(&mut self, at: Index, now: Tick) {
        self.pending.remove(&at);
        self.table.free(at, false, now);
    }

    /// It takes what was offered. An offer that ran out still holds if nobody was ever given the address.
    fn selecting(&self, address: Ipv4Addr, client: &Client<'_>) -> Verdict {
        match self.table.index(address).map(|at| (at, self.right(at, client))) {
            Some((at, Right::Own)) => Verdict::Ack(at),
            Some((at, Right::Open)) if self.may_take_unused(at, client) => Verdict::Ack(at),
            _ => Verdict::Nak,
        }
    }

    /// It had the address before it was switched off. Of whom we know nothing, another server may know something.
    fn init_reboot(&self, address: Ipv4Addr, client: &Client<'_>) -> Verdict {
        if !self.settings.is_inside(address) {
            return Verdict::Nak;
        }
        let at = self.table.index(address);
        if self.reserved_for(client).is_some_and(|reserved| Some(reserved) != at) {
            return Verdict::Nak;
        }
        match at.map(|at| (at, self.right(at, client))) {
            Some((at, Right::Own)) => Verdict::Ack(at),
            _ if self.own(client).is_some() => Verdict::Nak,
            _ => Verdict::Silence,
        }
    }

    /// RENEWING (`to_us`) or REBINDING: it has the address and wants to keep it.
    fn keeping(&self, address: Ipv4Addr, client: &Client<'_>, to_us: bool) -> Verdict {
        match self.table.index(address).map(|at| (at, self.right(at, client))) {
            Some((at, Right::Own)) => Verdict::Ack(at),
            // It asks us by name, so we gave it the address; the journal was lost.
            Some((at, Right::Open)) if to_us && self.may_take_unused(at, client) => Verdict::Ack(at),
            Some((_, Right::Open)) if !to_us => Verdict::Silence,
            None if !to_us && self.settings.is_inside(address) => Verdict::Silence,
            _ => Verdict::Nak,
        }
    }

    fn may_take_unused(&self, at: Index, client: &Client<'_>) -> bool {
        self.table.place(at).state == LeaseState::Unused && !self.is_at_limit(&client.origin)
    }

    /// The lease is the client's: written down, bound, and said.
    fn commit(
        &mut self,
        at: Index,
        request: &DhcpRequest<'_>,
        asked: &Asked<'_>,
        client: &Client<'_>,
        now: Tick,
        sink: &mut impl DhcpSink,
    ) -> Outcome {
        let address = self.table.address(at);
        let mut secs = self.lease_secs(asked);
        let until = now + Duration::from_secs(secs.into());
        let place = self.table.place(at);
        let before = place.holder.filter(|_| place.state == LeaseState::Leased);
        let is_same = before.is_some_and(|holder| holder.mac == client.mac && holder.key == client.key);
        let change = until.since(place.until).max(place.until.since(until));
        let is_same_host = place.host_name.as_deref() == host_name(asked);
        let is_close = place.until > now && change < Duration::from_secs((secs / 16).into());
        let mut is_news = true;
        if is_same && is_same_host && is_close && !place.is_unwritten {
            // Asked again within a moment: what is written down is said again, and the disk has nothing to do.
            secs = u32::try_from(place.until.since(now).as_secs()).unwrap_or(secs);
            let until = place.until;
            is_news = before != Some(client.holder());
            if before.is_some_and(|holder| holder.is_gone || holder.session != client.origin.session) {
                self.give_up_others(at, client, now, sink);
            }
            self.table.hold(at, client.holder(), LeaseState::Leased, until);
        } else {
            let of_address = &mut self.table.place_mut(at).changes;
            if !client.origin.is_bridge && !of_address.allow(CHANGES_PER_SEC, now) {
                return Err(DropReason::DhcpRate);
            }
            if !self.may_change(&client.origin, now) {
                return Err(DropReason::DhcpRate);
            }
            if let Some(holder) = before.filter(|_| !is_same) {
                let (member, mac, why) = (holder.member, holder.mac, LeaseEnd::Replaced);
                sink.event(DhcpEvent::Ended { address, member, mac, why });
            }
            self.give_up_others(at, client, now, sink);
            self.table.hold(at, client.holder(), LeaseState::Leased, until);
            self.table.place_mut(at).host_name = host_name(asked).map(Into::into);
            self.write_down(at, sink);
        }
        let binding = binding(&client.holder());
        sink.bind(address, Some(binding));
        match is_same {
            true if !is_news => {}
            true => sink.event(DhcpEvent::Renewed { address, binding, secs }),
            false => sink.event(DhcpEvent::Granted { address, binding, secs }),
        }
        if self.table.place(at).is_unwritten {
            return Err(DropReason::GatewayJournalSlow);
        }
        self.stats.acks += 1;
        let durable = self.table.place(at).durable;
        self.send(
            request,
            asked,
            Answer { what: MessageType::Ack, at: Some(at), lease_secs: Some(secs), durable },
            sink,
        );
        Ok(())
    }

    /// A client has one address, and a session as many as it may: what else they have ends when they take `at`.
    fn give_up_others(&mut self, at: Index, client: &Client<'_>, now: Tick, sink: &mut impl DhcpSink) {
        for _ in 0..WALK_MAX {
            let other = self.table.of_client(client.origin.member, &client.key).find(|other| *other != at);
            let Some(other) = other else { break };
            match self.table.place(other).state {
                LeaseState::Leased => {
                    self.end(other, LeaseEnd::Replaced, now, sink);
                    self.table.forget(other);
                }
                LeaseState::Free | LeaseState::Unused => self.table.forget(other),
                _ => self.drop_offer(other, now),
            }
        }
        if client.origin.is_bridge {
            return;
        }
        for _ in 0..WALK_MAX {
            let others = || self.taken_by(client.origin.session).filter(|other| *other != at);
            let is_within = others().count() < self.settings.leases_per_session;
            let first = others().min_by_key(|other| self.table.place(*other).until);
            let Some(other) = first.filter(|_| !is_within) else { break };
            match self.table.place(other).state {
                LeaseState::Leased => self.end(other, LeaseEnd::Replaced, now, sink),
                _ => self.drop_offer(other, now),
            }
        }
    }

    /// DECLINE: the client found that somebody uses its address.
    pub(super) fn decline(
        &mut self,
        asked: &Asked<'_>,
        client: &Client<'_>,
        now: Tick,
        sink: &mut impl DhcpSink,
    ) -> Outcome {
        self.stats.declines += 1;
        if asked.server.is_some_and(|server| server != self.settings.server) {
            return Err(DropReason::DhcpOtherServer);
        }
        let address = asked.requested.ok_or(DropReason::DhcpMalformed)?;
        let at = self.held(address, client).ok_or(DropReason::DhcpUnknownClient)?;
        if !self.may_put_out(&client.origin) {
            return Err(DropReason::DhcpRate);
        }
        let was_leased = self.table.place(at).state == LeaseState::Leased;
        self.put_out(at, now, sink);
        self.stats.conflicts += 1;
        if was_leased {
            sink.bind(address, None);
            let (member, mac, why) = (client.origin.member, client.mac, LeaseEnd::Declined);
            sink.event(DhcpEvent::Ended { address, member, mac, why });
        }
        sink.event(DhcpEvent::Conflict { address, by: client.mac, declined: true });
        Ok(())
    }

    /// RELEASE: the client has done with its address, which is remembered for it.
    pub(super) fn release_by(
        &mut self,
        asked: &Asked<'_>,
        client: &Client<'_>,
        now: Tick,
        sink: &mut impl DhcpSink,
    ) -> Outcome {
        self.stats.releases += 1;
        if asked.server.is_some_and(|server| server != self.settings.server) {
            return Err(DropReason::DhcpOtherServer);
        }
        let at = self.held(asked.message.ciaddr(), client).ok_or(DropReason::DhcpUnknownClient)?;
        if self.table.place(at).state == LeaseState::Leased {
            self.end(at, LeaseEnd::Released, now, sink);
        } else {
            self.table.free(at, false, now);
        }
        Ok(())
    }

    /// INFORM: the client has an address from elsewhere; no lease is looked for or made.
    pub(super) fn inform(
        &mut self,
        request: &DhcpRequest<'_>,
        asked: &Asked<'_>,
        client: &Client<'_>,
        sink: &mut impl DhcpSink,
    ) -> Outcome {
        self.stats.informs += 1;
        let has_address = [asked.message.ciaddr(), request.src].iter().any(|address| !address.is_unspecified());
        if !has_address && !client.origin.is_bridge {
            return Err(DropReason::DhcpMalformed);
        }
        self.stats.acks += 1;
        self.send(request, asked, Answer { what: MessageType::Ack, at: None, lease_secs: None, durable: None }, sink);
        Ok(())
    }

    /// The place of `address` if this very client has it or was offered it.
    fn held(&self, address: Ipv4Addr, client: &Client<'_>) -> Option<Index> {
        let at = self.table.index(address)?;
        let place = self.table.place(at);
        let is_own = place.holder.is_some_and(|holder| {
            holder.member == client.origin.member
                && holder.key == client.key
                && (holder.session == client.origin.session || holder.is_gone)
        });
        (is_own && matches!(place.state, LeaseState::Leased | LeaseState::Offered)).then_some(at)
    }

    /// As long as the client wishes, within limits.
    fn lease_secs(&self, asked: &Asked<'_>) -> u32 {
        let most = self.settings.lease_secs.max(1);
        asked.lease_secs.unwrap_or(most).max(self.settings.lease_secs_min).min(most)
    }
}

enum Verdict {
    Ack(Index),
    Nak,
    Silence,
}

fn host_name<'a>(asked: &Asked<'a>) -> Option<&'a [u8]> {
    let name = asked.host_name;
    Some(&name[..name.len().min(HOST_NAME_BYTES_MAX)]).filter(|name| !name.is_empty())
}

/// Clients that wait for a probe: 1.5 MB of messages at most. 3,000 a second may need one.
const PENDING_MAX: usize = 1024;
/// Bound of walks over what one client, session or member has.
const WALK_MAX: usize = 64;
