//! Which addresses are kept for whom.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::Client;
use super::lease::{Index, LeaseTable};
use super::settings::Reservation;
use crate::ids::MemberId;
use crate::wire::ethernet::Mac;

/// Reservations by the most particular of their conditions.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    by_place: BTreeMap<Index, Reservation>,
    by_client_id: BTreeMap<Box<[u8]>, Vec<Index>>,
    by_mac: BTreeMap<Mac, Vec<Index>>,
    by_member: BTreeMap<MemberId, Vec<Index>>,
}

impl Reservations {
    /// Those whose address has a place and that are for somebody; of several for an address the first.
    pub(super) fn new(all: &[Reservation], table: &LeaseTable) -> Self {
        let mut reservations = Self::default();
        for reservation in all.iter().filter(|reservation| reservation.is_for_somebody()) {
            let Some(at) = reservation.address.and_then(|address| table.index(address)) else { continue };
            if reservations.by_place.contains_key(&at) {
                continue;
            }
            let list = match (&reservation.client_id, reservation.mac, reservation.member) {
                (Some(id), _, _) => reservations.by_client_id.entry(id.as_slice().into()).or_default(),
                (_, Some(mac), _) => reservations.by_mac.entry(mac).or_default(),
                (_, _, Some(member)) => reservations.by_member.entry(member).or_default(),
                _ => continue,
            };
            list.push(at);
            reservations.by_place.insert(at, reservation.clone());
        }
        reservations
    }

    /// Places kept for `client`, the most particular first.
    pub(super) fn of(&self, client: &Client<'_>) -> impl Iterator<Item = Index> {
        let by_id = client.id.and_then(|id| self.by_client_id.get(id));
        let by_mac = self.by_mac.get(&client.mac);
        let by_member = self.by_member.get(&client.origin.member);
        let all = [by_id, by_mac, by_member].into_iter().flatten().flatten().copied();
        all.filter(|at| self.allows(*at, client))
    }

    /// Whether `at` is kept for `client`.
    pub(super) fn allows(&self, at: Index, client: &Client<'_>) -> bool {
        let Some(reservation) = self.by_place.get(&at) else { return false };
        // Behind a bridge there are many stations, and the member alone says nothing about which is meant.
        let is_plain = reservation.mac.is_none() && reservation.client_id.is_none();
        !(is_plain && client.origin.is_bridge)
            && reservation.member.is_none_or(|member| member == client.origin.member)
            && reservation.mac.is_none_or(|mac| mac == client.mac)
            && reservation.client_id.as_deref().is_none_or(|id| client.id == Some(id))
    }

    /// The name that goes with `at`.
    pub(super) fn host_name(&self, at: Index) -> Option<&str> {
        self.by_place.get(&at).map(|reservation| reservation.host_name.as_str()).filter(|name| !name.is_empty())
    }

    /// Whether `at` may stay with a lease that was made under other settings.
    pub(super) fn could_be_for(&self, at: Index, member: MemberId, mac: Mac) -> bool {
        self.by_place.get(&at).is_none_or(|reservation| {
            reservation.member.is_none_or(|other| other == member) && reservation.mac.is_none_or(|other| other == mac)
        })
    }
}
