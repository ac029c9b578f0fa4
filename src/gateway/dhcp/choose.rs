//! Which address does a client get? (RFC 2131 §4.3.1, with members)
//!
//! 1. one that is reserved for it;
//! 2. its own, held or last had;
//! 3. if its session has as many as it may: one of those;
//! 4. one that its member left behind in a session that is over, or gave back;
//! 5. the one it asks for;
//! 6. any: best one whose part of the NAT is on the session's worker, best one that nobody had yet, else the one that is
//!    free for longest.
//!
//! By 3 and 4, cards with random addresses do not eat the pool, and no session can (H14).
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::lease::Index;
use super::{Client, DhcpServer, LeaseState};

/// An address, and whether to ask first if somebody uses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Pick {
    pub(super) at: Index,
    pub(super) probe: bool,
}

/// What a client may say about an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    /// It is its own to keep or take.
    Own,
    /// Nobody knows anything about it.
    Open,
    /// It is another's, reserved, or out of service.
    None,
}

impl DhcpServer {
    pub(super) fn choose(&self, client: &Client<'_>, requested: Option<Ipv4Addr>) -> Option<Pick> {
        let at_once = |at| Pick { at, probe: false };
        if let Some(at) = self.reserved_for(client) {
            return Some(at_once(at));
        }
        let at_limit = self.is_at_limit(&client.origin);
        if let Some(at) = self.own(client).filter(|at| !at_limit || self.table.place(*at).is_taken()) {
            return Some(at_once(at));
        }
        if at_limit {
            return self.of_session(client).map(at_once);
        }
        if let Some(at) = self.left_behind(client) {
            return Some(at_once(at));
        }
        let at = requested.and_then(|address| self.requested(address)).or_else(|| {
            let worker = client.origin.port.worker();
            self.table.spare(worker)
        })?;
        Some(Pick { at, probe: self.table.place(at).is_used })
    }

    /// 1. Static beats dynamic.
    pub(super) fn reserved_for(&self, client: &Client<'_>) -> Option<Index> {
        self.reservations.of(client).find(|at| self.may_have_reserved(*at, client))
    }

    /// Two devices of a member do not fight for his address: who has it keeps it while his session lives.
    fn may_have_reserved(&self, at: Index, client: &Client<'_>) -> bool {
        let place = self.table.place(at);
        match place.state {
            LeaseState::Unused | LeaseState::Free => true,
            LeaseState::Conflict | LeaseState::Closed => false,
            LeaseState::Probing | LeaseState::Offered | LeaseState::Leased => place.holder.is_none_or(|holder| {
                let is_same = holder.key == client.key || holder.session == client.origin.session;
                holder.is_gone || holder.member == client.origin.member && is_same
            }),
        }
    }

    /// 2. What it has goes before what it had.
    pub(super) fn own(&self, client: &Client<'_>) -> Option<Index> {
        let all = self.table.of_client(client.origin.member, &client.key).take(CLIENT_WALK_MAX);
        let may = |at: &Index| !self.table.place(*at).is_reserved || self.reservations.allows(*at, client);
        all.filter(may).min_by_key(|at| match self.table.place(*at).state {
            LeaseState::Leased => 0,
            LeaseState::Offered => 1,
            LeaseState::Probing => 2,
            _ => 3,
        })
    }

    /// 3. What nobody took yet, else what ends first.
    fn of_session(&self, client: &Client<'_>) -> Option<Index> {
        let may = |at: &Index| !self.table.place(*at).is_reserved || self.reservations.allows(*at, client);
        self.taken_by(client.origin.session).filter(may).min_by_key(|at| {
            let place = self.table.place(*at);
            (place.state == LeaseState::Leased, place.until)
        })
    }

    /// 4. Not for bridges: their stations are not one another.
    fn left_behind(&self, client: &Client<'_>) -> Option<Index> {
        if client.origin.is_bridge {
            return None;
        }
        self.table.of_member(client.origin.member).take(MEMBER_WALK_MAX).find(|at| {
            let place = self.table.place(*at);
            let is_gone = place.holder.is_some_and(|holder| holder.is_gone);
            !place.is_reserved
                && match place.state {
                    LeaseState::Free => true,
                    LeaseState::Leased | LeaseState::Offered => is_gone,
                    _ => false,
                }
        })
    }

    /// 5. If it is free.
    fn requested(&self, address: Ipv4Addr) -> Option<Index> {
        let at = self.table.index(address)?;
        let place = self.table.place(at);
        let is_free = matches!(place.state, LeaseState::Unused | LeaseState::Free);
        (is_free && !place.is_reserved).then_some(at)
    }

    /// What `client` may say about `at`, in a REQUEST.
    pub(super) fn right(&self, at: Index, client: &Client<'_>) -> Right {
        let place = self.table.place(at);
        if place.is_reserved {
            let is_own = self.reservations.allows(at, client) && self.may_have_reserved(at, client);
            return if is_own { Right::Own } else { Right::None };
        }
        let is_own = place.holder.is_some_and(|holder| {
            let by_session =
                holder.is_gone || holder.session == client.origin.session && self.is_at_limit(&client.origin);
            holder.member == client.origin.member
                && (holder.key == client.key || !client.origin.is_bridge && by_session)
        });
        match place.state {
            LeaseState::Leased | LeaseState::Offered | LeaseState::Free if is_own => Right::Own,
            LeaseState::Unused | LeaseState::Free => Right::Open,
            _ => Right::None,
        }
    }
}

/// A client has one lease, may be changing to another, and is remembered for one.
const CLIENT_WALK_MAX: usize = 8;
/// Leases of sessions that are over stand in front. Members with more live sessions than this share an account.
const MEMBER_WALK_MAX: usize = 32;
