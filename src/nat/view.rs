//! For the operator: what there is, how much, and why a packet goes where it goes.
#![forbid(unsafe_code)]

use std::net::{Ipv4Addr, SocketAddrV4};
use std::ops::AddAssign;

use serde::{Deserialize, Serialize};

use super::events::{PortBlock, Translation};
use super::flows::Flow;
use super::mappings::{self, Mapping};
use super::parse::Tuple;
use super::plan::{PortUse, Proto};
use super::table::NONE;
use super::tcp::{self, State};
use super::{Insider, Nat};
use crate::ids::MemberId;
use crate::metrics::drops::DropReason;
use crate::tick::Tick;
use crate::wire::tcp::FLAG_SYN;

macro_rules! stats {
    ($( $(#[doc = $help:literal])+ $field:ident, )+) => {
        /// Counters since the start, and what there is now.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct NatStats {
            $( $(#[doc = $help])+ pub $field: u64, )+
        }

        impl AddAssign for NatStats {
            fn add_assign(&mut self, part: NatStats) {
                $( self.$field += part.$field; )+
            }
        }
    };
}

stats! {
    /// Packets from members that were translated; super-packets count once.
    packets_out,
    /// Their bytes.
    bytes_out,
    /// Packets to members that were translated.
    packets_in,
    /// Their bytes.
    bytes_in,
    /// Packets from members to members by way of an external address, of `packets_out`.
    hairpins,
    /// ICMP messages of our own.
    icmp_sent,
    /// Mappings that began.
    mappings_begun,
    /// Flows that began.
    flows_begun,
    /// Of these, TCP that shares its external port.
    overlaps_begun,
    /// Inside addresses in use.
    hosts,
    /// Mappings there are.
    mappings,
    /// Flows there are.
    flows,
    /// Blocks that are in use or rest.
    blocks_used,
    /// Blocks there are.
    blocks,
    /// Incomplete datagrams.
    datagrams,
    /// Memory of the tables.
    table_bytes,
}

impl NatStats {
    #[inline]
    pub(super) fn outbound(&mut self, bytes: usize) {
        self.packets_out += 1;
        self.bytes_out += bytes as u64;
    }

    #[inline]
    pub(super) fn inbound(&mut self, bytes: usize) {
        self.packets_in += 1;
        self.bytes_in += bytes as u64;
    }
}

/// Which lines of a list are wanted; all conditions together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatFilter {
    /// Of that member.
    pub member: Option<MemberId>,
    /// Of that inside address.
    pub inside: Option<Ipv4Addr>,
    /// Of that external address.
    pub external: Option<Ipv4Addr>,
    /// Of that external port.
    pub external_port: Option<u16>,
    /// Of that protocol.
    pub proto: Option<Proto>,
    /// Towards that address.
    pub remote: Option<Ipv4Addr>,
}

/// A line: a flow, or a mapping that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MappingView {
    /// Inside and external address and port.
    pub translation: Translation,
    /// The other end; `None`: nobody yet.
    pub remote: Option<SocketAddrV4>,
    /// Whose; `None`: a static mapping whose member was not seen.
    pub insider: Option<Insider>,
    /// State; `None` without a flow.
    pub state: Option<State>,
    /// Seconds until it ends if nothing happens; `None`: lasts.
    pub expires_secs: Option<u64>,
    /// Whether the mapping is from the configuration.
    pub is_static: bool,
    /// Whether it was asked for by PCP.
    pub is_pcp: bool,
    /// Whether the external port is shared with others.
    pub is_shared: bool,
}

/// What is known about an external address and port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// The worker that holds its state.
    pub owner: usize,
    /// What the port is for.
    pub port_use: PortUse,
    /// The block it lies in and who has that, if anybody.
    pub block: Option<(PortBlock, Insider)>,
    /// Mapping and flows, at most 64.
    pub mappings: Vec<MappingView>,
}

impl Nat {
    /// Counters and gauges.
    pub fn stats(&self) -> NatStats {
        let (free, blocks) = self.ports.blocks();
        let tables = [self.flows.bytes(), self.mappings.bytes()];
        NatStats {
            hosts: self.hosts.slab.len() as u64,
            mappings: self.mappings.slab.len() as u64,
            flows: self.flows.slab.len() as u64,
            blocks_used: (blocks - free) as u64,
            blocks: blocks as u64,
            datagrams: self.fragments.len() as u64,
            table_bytes: tables.iter().sum::<usize>() as u64,
            ..self.stats
        }
    }

    /// At most `max` lines that `filter` asks for.
    pub fn list(&self, filter: &NatFilter, max: usize, now: Tick) -> Vec<MappingView> {
        let flows = (0..self.flows.slab.end())
            .map(|n| &self.flows.slab[n])
            .filter(|flow| !flow.outside.is_unspecified() && flow.state != State::Resting)
            .map(|flow| self.view_flow(flow, now));
        let mappings = (0..self.mappings.slab.end())
            .map(|n| (n, &self.mappings.slab[n]))
            .filter(|(_, mapping)| !mapping.outside.is_unspecified() && mapping.flows == NONE)
            .map(|(n, mapping)| self.view_mapping(n, mapping, now));
        flows.chain(mappings).filter(|view| filter.wants(view)).take(max).collect()
    }

    fn view_flow(&self, flow: &Flow, now: Tick) -> MappingView {
        let due = flow.last.saturating_add(self.lifetimes.of(flow.state));
        let flags = if flow.mapping == NONE { 0 } else { self.mappings.slab[flow.mapping].flags };
        MappingView {
            translation: flow.translation(),
            remote: Some(flow.remote_end()),
            insider: (flow.host != NONE).then(|| self.hosts.slab[flow.host].insider),
            state: Some(flow.state),
            expires_secs: Some(tcp::from_coarse(due).since(now).as_secs()),
            is_static: flags & mappings::STATIC != 0,
            is_pcp: flags & mappings::PCP != 0,
            is_shared: flow.mapping == NONE,
        }
    }

    fn view_mapping(&self, number: u32, mapping: &Mapping, now: Tick) -> MappingView {
        MappingView {
            translation: mapping.translation(),
            remote: None,
            insider: (mapping.host != NONE).then(|| self.hosts.slab[mapping.host].insider),
            state: None,
            expires_secs: self.pcp.until(number).map(|until| until.since(now).as_secs()),
            is_static: mapping.flags & mappings::STATIC != 0,
            is_pcp: mapping.flags & mappings::PCP != 0,
            is_shared: false,
        }
    }

    /// Who stands behind an external address and port; `None`: the address is not ours. Only its owner knows all.
    pub fn explain(&self, proto: Proto, external: SocketAddrV4, now: Tick) -> Option<Explanation> {
        let (address, port) = (*external.ip(), external.port());
        let area = self.plan.area_of(address)?;
        let filter = NatFilter {
            external: Some(address),
            external_port: Some(port),
            proto: Some(proto),
            ..NatFilter::default()
        };
        let block = self.ports.holder(area, port).map(|(block, host)| {
            let (address, first, ports) = self.ports.extent(block);
            (PortBlock { address, first, ports }, self.hosts.slab[host].insider)
        });
        let port_use = self.plan.use_of(address, port);
        let owner = self.plan.owner_of_external(proto, address, port);
        Some(Explanation { owner, port_use, block, mappings: self.list(&filter, EXPLAINED_MAX, now) })
    }
}

impl Nat {
    /// What becomes of a packet from `remote` to an external address and port; of TCP, of one that opens a connection.
    /// Only the owner of the port knows.
    ///
    /// # Errors
    /// Why it is dropped.
    pub fn verdict(&self, proto: Proto, external: SocketAddrV4, remote: SocketAddrV4) -> Result<(), DropReason> {
        let tuple = Tuple {
            proto,
            src: *remote.ip(),
            dst: *external.ip(),
            src_port: if proto == Proto::Icmp { 0 } else { remote.port() },
            dst_port: external.port(),
            flags: FLAG_SYN,
        };
        match (self.flows.inbound(&tuple), self.mappings.of_outside(proto, tuple.dst, tuple.dst_port)) {
            (Some(flow), _) if self.flows.slab[flow].state == State::Resting => Err(DropReason::NatNoFlow),
            (Some(_), _) => Ok(()),
            (None, None) => Err(DropReason::NatNoMapping),
            (None, Some(mapping)) if !self.takes(mapping, &tuple) => Err(DropReason::NatFiltered),
            (None, Some(_)) => Ok(()),
        }
    }
}

impl NatFilter {
    fn wants(&self, view: &MappingView) -> bool {
        let Translation { proto, inside, external } = view.translation;
        self.member.is_none_or(|member| view.insider.is_some_and(|insider| insider.member == member))
            && self.inside.is_none_or(|address| *inside.ip() == address)
            && self.external.is_none_or(|address| *external.ip() == address)
            && self.external_port.is_none_or(|port| external.port() == port)
            && self.proto.is_none_or(|wanted| proto == wanted)
            && self.remote.is_none_or(|address| view.remote.is_some_and(|remote| *remote.ip() == address))
    }
}

/// Lines of an explanation.
pub(super) const EXPLAINED_MAX: usize = 64;
