//! How far public ports go: told before the first member finds out.
#![forbid(unsafe_code)]

use std::net::Ipv4Addr;

use super::routers::nat_settings;
use crate::config::{Config, Hub};
use crate::ids::PortId;
use crate::nat::{NatPlan, NatPlanError};
use crate::sys::affinity::CpuList;

/// What a hub's public ports are enough for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capacity {
    /// For people.
    pub text: String,
    /// Not every session that the hub takes gets a block of its own.
    pub is_short: bool,
}

/// A line for each hub with `[hub.nat]`.
///
/// # Errors
/// A hub whose NAT cannot be made, and why.
pub fn capacities(config: &Config) -> Result<Vec<Capacity>, String> {
    let workers = match &config.server.workers {
        Some(cpus) => cpus.numbers().len(),
        None => CpuList::available().map_or(1, |cpus| cpus.numbers().len()),
    };
    let workers = workers.clamp(1, PortId::WORKERS_MAX);
    config.hubs.iter().filter_map(|hub| of_hub(hub, workers)).collect()
}

fn of_hub(hub: &Hub, workers: usize) -> Option<Result<Capacity, String>> {
    let (gateway, nat) = (hub.gateway.as_ref()?, hub.nat.as_ref()?);
    let plan =
        |addresses: &[Ipv4Addr]| NatPlan::new(nat_settings(gateway, nat, addresses, nat.mtu.unwrap_or(1500), workers));
    // The host's address is known at the start; what matters here is that it is one outside the hub.
    let made = if nat.addresses.is_empty() { elsewhere(plan) } else { plan(&nat.addresses) };
    Some(made.map(|plan| capacity(hub, &plan)).map_err(|error| format!("hub {}: {error}", hub.name)))
}

fn elsewhere(plan: impl Fn(&[Ipv4Addr]) -> Result<NatPlan, NatPlanError>) -> Result<NatPlan, NatPlanError> {
    match plan(&[DOCUMENTATION[0]]) {
        Err(NatPlanError::InsideIsOutside(..)) => plan(&[DOCUMENTATION[1]]),
        made => made,
    }
}

fn capacity(hub: &Hub, plan: &NatPlan) -> Capacity {
    let addresses = plan.addresses().count();
    let addresses =
        if addresses == 1 { "1 public address".to_owned() } else { format!("{addresses} public addresses") };
    let ((first, last), blocks, ports) = (plan.settings().ports, plan.blocks(), plan.block_ports());
    let is_short = u64::try_from(blocks).is_ok_and(|blocks| blocks < u64::from(hub.sessions_max));
    let rest = if is_short { "later members share ports" } else { "enough for all" };
    let text = format!(
        "hub {}: {addresses}, ports {first}-{last}: {blocks} members with {ports} ports each; sessions_max is {}: {rest}",
        hub.name, hub.sessions_max
    );
    Capacity { text, is_short }
}

/// Addresses that nobody has (RFC 5737).
const DOCUMENTATION: [Ipv4Addr; 2] = [Ipv4Addr::new(192, 0, 2, 1), Ipv4Addr::new(198, 51, 100, 1)];

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::raw::RawServer;

    fn lines(workers: &str, nat: &str, sessions_max: u32) -> Result<Vec<Capacity>, String> {
        let text = format!(
            "[server]\nworkers = \"{workers}\"\n[[hub]]\nname = \"PUBLIC\"\nsessions_max = {sessions_max}\n[hub.gateway]\n[hub.nat]\ndevice = \"eth0\"\n{nat}"
        );
        capacities(&Config::build("c.toml", &text, Path::new("/"), RawServer::default()).unwrap())
    }

    #[test]
    fn a_shared_address_goes_round_for_few() {
        let said = lines("0", "", 65_536).unwrap();
        let want = "hub PUBLIC: 1 public address, ports 61001-65535: 44 members with 64 ports each; sessions_max is 65536: later members share ports";
        assert_eq!((said[0].text.as_str(), said[0].is_short, said.len()), (want, true, 1));
        let said = lines("0", "", 40).unwrap();
        assert!(!said[0].is_short && said[0].text.ends_with("sessions_max is 40: enough for all"), "{said:?}");
    }

    #[test]
    fn addresses_of_its_own_multiply() {
        let one = lines("0", "addresses = [\"192.0.2.1\"]\nblock_ports = 32\n", 1_000).unwrap();
        assert!(one[0].text.contains("members with 32 ports each") && !one[0].is_short, "{one:?}");
        let two = lines("0", "addresses = [\"192.0.2.1\", \"192.0.2.2\"]\n", 5_000).unwrap();
        assert!(two[0].text.starts_with("hub PUBLIC: 2 public addresses, ") && two[0].is_short, "{two:?}");
    }

    #[test]
    fn ports_that_are_too_few_are_told() {
        let error = lines("0-9", "ports = \"61001-61520\"\n", 10);
        assert!(error.as_ref().is_err_and(|error| error.starts_with("hub PUBLIC: ports 61001-61520")), "{error:?}");
    }

    #[test]
    fn a_hub_without_nat_has_nothing_to_tell() {
        let config = Config::build("c.toml", "[[hub]]\nname = \"x\"\n", Path::new("/"), RawServer::default()).unwrap();
        assert_eq!(capacities(&config), Ok(Vec::new()));
    }
}
