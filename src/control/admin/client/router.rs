//! Leases and mappings as tables.
#![forbid(unsafe_code)]

use super::super::StatusView;
use super::super::router::{LeaseRow, NatExplained, NatRow, NatStatsRow};
use super::super::table::{Align, Table, age, bytes, count, plain};
use super::{or_dash, total};

pub(super) fn leases(rows: &[LeaseRow]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("HUB", Left),
        ("ADDRESS", Left),
        ("STATE", Left),
        ("LEFT", Right),
        ("USER", Left),
        ("SESSION", Left),
        ("MAC", Left),
        ("RESERVED", Left),
        ("HOST", Left),
    ]);
    for row in rows {
        let left = if row.state == "free" { "-".to_owned() } else { age(row.left_s) };
        let reserved = if row.reserved { "yes" } else { "-" };
        table.row([
            row.hub.clone(),
            row.address.clone(),
            row.state.clone(),
            left,
            or_dash(&row.user),
            or_dash(&row.session),
            or_dash(&row.mac),
            reserved.to_owned(),
            or_dash(&row.host_name),
        ]);
    }
    let leased = rows.iter().filter(|row| row.state == "leased").count();
    table.text() + &total(leased, "lease", "leases")
}

pub(super) fn mappings(rows: &[NatRow], more: bool) -> String {
    let mut text = mapping_table(rows) + &total(rows.len(), "line", "lines");
    if more {
        text += "there are more: --max N shows more, --user NAME and --address ADDRESS show less\n";
    }
    text
}

fn mapping_table(rows: &[NatRow]) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("HUB", Left),
        ("PROTO", Left),
        ("INSIDE", Left),
        ("PUBLIC", Left),
        ("REMOTE", Left),
        ("USER", Left),
        ("SESSION", Left),
        ("STATE", Left),
        ("KIND", Left),
        ("ENDS IN", Right),
    ]);
    for row in rows {
        table.row([
            row.hub.clone(),
            row.proto.clone(),
            row.inside.clone(),
            row.external.clone(),
            or_dash(&row.remote),
            or_dash(&row.user),
            or_dash(&row.session),
            or_dash(&row.state),
            row.kind.clone(),
            row.expires_s.map_or_else(|| "-".to_owned(), age),
        ]);
    }
    table.text()
}

pub(super) fn nat_stats(rows: &[NatStatsRow]) -> String {
    let mut text = String::new();
    for row in rows {
        let mut table = Table::new(&[("NAT", Align::Left), (&plain(&row.hub), Align::Right)]);
        let words = [("device", row.device.clone()), ("public addresses", row.addresses.join(" "))];
        let counts = [
            ("ports of a block", row.block_ports.into()),
            ("blocks used", row.stats.blocks_used),
            ("blocks", row.stats.blocks),
            ("inside addresses", row.stats.hosts),
            ("mappings", row.stats.mappings),
            ("flows", row.stats.flows),
            ("incomplete datagrams", row.stats.datagrams),
            ("packets out", row.stats.packets_out),
            ("packets in", row.stats.packets_in),
            ("hairpins", row.stats.hairpins),
            ("ICMP sent", row.stats.icmp_sent),
            ("mappings begun", row.stats.mappings_begun),
            ("flows begun", row.stats.flows_begun),
            ("flows that shared a port", row.stats.overlaps_begun),
        ];
        let sizes = [
            ("bytes out", row.stats.bytes_out),
            ("bytes in", row.stats.bytes_in),
            ("memory of tables", row.stats.table_bytes),
        ];
        let counts = counts.into_iter().map(|(name, n)| (name, count(n)));
        let sizes = sizes.into_iter().map(|(name, n)| (name, bytes(n)));
        for (name, value) in words.into_iter().chain(counts).chain(sizes) {
            table.row([name.to_owned(), value]);
        }
        if !text.is_empty() {
            text += "\n";
        }
        text += &table.text();
    }
    if rows.is_empty() { "no hub has a NAT\n".to_owned() } else { text }
}

pub(super) fn explained(view: &NatExplained) -> String {
    let what = match view.port_use.as_str() {
        "block" => "in a block that one member has for a while",
        "commons" => "shared: each use is recorded",
        "static" => "a forward of the configuration",
        _ => "not used by the NAT",
    };
    let mut text = format!("{} {} of hub {}: {what}\n", plain(&view.proto), plain(&view.external), plain(&view.hub));
    if !view.block.is_empty() {
        text += &format!(
            "block {} is held by user {} at {}, session {}\n",
            plain(&view.block),
            plain(&or_dash(&view.user)),
            plain(&view.inside),
            plain(&or_dash(&view.session))
        );
    } else if view.port_use == "block" {
        text += "nobody has that block\n";
    }
    text += &mapping_table(&view.rows);
    match view.verdict.as_deref() {
        None => {}
        Some("passes") => text += "a packet from there passes\n",
        Some(reason) => text += &format!("a packet from there is dropped: {}\n", plain(reason)),
    }
    text
}

/// Empty without a gateway.
pub(super) fn gateways(view: &StatusView) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("GATEWAY OF", Left),
        ("ADDRESS", Left),
        ("WORKER", Right),
        ("LEASES", Right),
        ("POOL", Right),
        ("DEVICE", Left),
        ("LINK", Left),
        ("MAPPINGS", Right),
        ("FLOWS", Right),
        ("BLOCKS", Right),
    ]);
    for (hub, gateway) in view.hubs.iter().filter_map(|hub| Some((hub, hub.gateway.as_ref()?))) {
        let nat = gateway.nat.as_ref();
        let of_nat = |text: fn(&super::super::router::NatView) -> String| nat.map_or_else(|| "-".to_owned(), text);
        table.row([
            hub.name.clone(),
            gateway.address.clone(),
            gateway.worker.to_string(),
            count(gateway.leases),
            count(gateway.pool),
            of_nat(|nat| nat.device.clone()),
            of_nat(|nat| or_dash(&nat.link)),
            of_nat(|nat| count(nat.mappings)),
            of_nat(|nat| count(nat.flows)),
            of_nat(|nat| format!("{} of {}", count(nat.blocks_used), count(nat.blocks))),
        ]);
    }
    if table.is_empty() { String::new() } else { format!("\n{}{}", table.text(), lanes(view)) }
}

/// Lanes with queues of their own, and what there is to say about any.
fn lanes(view: &StatusView) -> String {
    use Align::{Left, Right};
    let mut table = Table::new(&[
        ("LANE OF", Left),
        ("MODE", Left),
        ("STEERING", Left),
        ("QUEUE", Right),
        ("WORKER", Right),
        ("RING DROPS", Right),
        ("ZERO-COPY", Left),
    ]);
    let nats = || view.hubs.iter().filter_map(|hub| Some((hub, hub.gateway.as_ref()?.nat.as_ref()?)));
    for (hub, nat) in nats() {
        for queue in &nat.queues {
            table.row([
                hub.name.clone(),
                nat.lane.clone(),
                nat.steer.clone(),
                queue.queue.to_string(),
                queue.worker.to_string(),
                count(queue.ring_drops),
                if queue.zero_copy { "yes".into() } else { format!("no: {}", or_dash(&queue.why_copy)) },
            ]);
        }
    }
    let mut text = String::new();
    if !table.is_empty() {
        let counter = |name: &str| view.counters.get(name).copied().unwrap_or_default();
        text = format!(
            "\n{}{} of {} packets received crossed to another worker, {} of {} sent were sent by another\n",
            table.text(),
            count(counter("lane_crossed")),
            count(counter("lane_received")),
            count(counter("lane_relayed")),
            count(counter("lane_sent")),
        );
    }
    for (hub, nat) in nats() {
        text.extend(nat.remarks.iter().map(|remark| format!("lane of {}: {remark}\n", hub.name)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::super::super::router::{GatewayView, LaneQueueView, NatView};
    use super::super::super::{Answer, HubView};
    use super::super::{json, text};
    use super::*;
    use crate::nat::NatStats;

    fn row() -> NatRow {
        NatRow {
            hub: "PUBLIC".into(),
            proto: "udp".into(),
            inside: "100.64.0.9:4000".into(),
            external: "192.0.2.9:61002".into(),
            user: "alice\u{1b}".into(),
            kind: "dynamic".into(),
            expires_s: Some(61),
            ..NatRow::default()
        }
    }

    #[test]
    fn leases_and_mappings_stand_in_tables() {
        let lease = LeaseRow {
            hub: "PUBLIC".into(),
            address: "100.64.0.9".into(),
            state: "leased".into(),
            user: "alice".into(),
            host_name: "pc\n".into(),
            left_s: 3_700,
            ..LeaseRow::default()
        };
        let free = LeaseRow { state: "free".into(), ..lease.clone() };
        let shown = text(&Answer::Leases { rows: vec![lease, free] }, 0);
        assert!(shown.contains("1h 01m") && shown.contains(r"pc\n") && shown.ends_with("1 lease\n"), "{shown}");
        let answer = Answer::Mappings { rows: vec![row()], more: true };
        let shown = text(&answer, 0);
        assert!(shown.contains("1m 01s") && shown.contains("--max N") && !shown.contains('\u{1b}'), "{shown}");
        assert_eq!(serde_json::from_str::<Vec<NatRow>>(&json(&answer)).unwrap(), [row()]);
        let shown = text(&Answer::Mappings { rows: Vec::new(), more: false }, 0);
        assert!(shown.ends_with("0 lines\n"), "{shown}");
    }

    #[test]
    fn an_endpoint_is_explained() {
        let mut view = NatExplained {
            hub: "PUBLIC".into(),
            proto: "udp".into(),
            external: "192.0.2.9:61002".into(),
            port_use: "block".into(),
            block: "61001-61064".into(),
            inside: "100.64.0.9".into(),
            user: "alice".into(),
            rows: vec![row()],
            verdict: Some("nat_filtered".into()),
            ..NatExplained::default()
        };
        let shown = text(&Answer::Explained(Box::new(view.clone())), 0);
        for want in ["block 61001-61064 is held by user alice at 100.64.0.9, session -", "dropped: nat_filtered"] {
            assert!(shown.contains(want), "{want}\n{shown}");
        }
        (view.block, view.verdict) = (String::new(), Some("passes".into()));
        let shown = text(&Answer::Explained(Box::new(view)), 0);
        assert!(shown.contains("nobody has that block") && shown.ends_with("from there passes\n"), "{shown}");
    }

    #[test]
    fn status_shows_gateways_where_there_are_some() {
        let nat = NatView { device: "eth0".into(), link: "up".into(), blocks: 44, ..NatView::default() };
        let gateway = GatewayView { address: "100.64.0.1".into(), pool: 65_533, nat: Some(nat), ..Default::default() };
        let hub = HubView { name: "PUBLIC".into(), gateway: Some(gateway), ..HubView::default() };
        let mut view = StatusView { hubs: vec![hub, HubView::default()], ..StatusView::default() };
        let shown = text(&Answer::Status(Box::new(view.clone())), 0);
        assert!(shown.contains("GATEWAY OF") && shown.contains("eth0") && shown.contains("0 of 44"), "{shown}");
        assert!(!shown.contains("LANE OF"), "{shown}");
        let nat = view.hubs[0].gateway.as_mut().unwrap().nat.as_mut().unwrap();
        nat.lane = "xdp".into();
        nat.queues = vec![LaneQueueView { queue: 3, why_copy: "veth".into(), ring_drops: 1_005, ..Default::default() }];
        nat.remarks = vec!["no TSO".into()];
        view.counters.insert("lane_crossed".into(), 7);
        let shown = text(&Answer::Status(Box::new(view)), 0);
        for want in ["LANE OF", "1,005", "no: veth", "7 of 0 packets", "lane of PUBLIC: no TSO"] {
            assert!(shown.contains(want), "{want}\n{shown}");
        }
        assert!(!text(&Answer::Status(Box::default()), 0).contains("GATEWAY"));
        let stats = NatStatsRow {
            hub: "PUBLIC".into(),
            stats: NatStats { packets_out: 1_234, ..NatStats::default() },
            ..NatStatsRow::default()
        };
        assert!(text(&Answer::NatStats { rows: vec![stats] }, 0).contains("1,234"));
        assert_eq!(text(&Answer::NatStats { rows: Vec::new() }, 0), "no hub has a NAT\n");
    }
}
