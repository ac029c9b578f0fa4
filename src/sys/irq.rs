//! Which interrupts a network device has and which CPUs serve them, from the kernel's texts.
#![forbid(unsafe_code)]

use std::fs;

use serde::Serialize;

/// An interrupt of a device's queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Irq {
    /// The kernel's number for it.
    pub number: u32,
    /// What the driver calls it, such as `eth0-TxRx-3`.
    pub queue: String,
    /// CPUs that serve it.
    pub cpus: Vec<u32>,
}

/// The interrupts of the device called `name` that hangs on one of `parents` (`0000:03:00.0`, `virtio2`). Empty if the
/// device has none or the kernel does not show them.
pub fn of_device(name: &str, parents: &[&str]) -> Vec<Irq> {
    let text = fs::read_to_string("/proc/interrupts").unwrap_or_default();
    let found = queues(&text, name, parents).into_iter().take(IRQS_MAX);
    found.map(|(number, queue)| Irq { number, queue, cpus: cpus_of(number) }).collect()
}

fn cpus_of(number: u32) -> Vec<u32> {
    // Where it fires comes before where it may fire: most controllers choose one CPU of the set.
    let read = |file| fs::read_to_string(format!("/proc/irq/{number}/{file}")).ok();
    let wanted = ["effective_affinity_list", "smp_affinity_list"];
    wanted.into_iter().filter_map(read).map(|text| cpus(&text)).find(|cpus| !cpus.is_empty()).unwrap_or_default()
}

/// Number and name of each queue's interrupt, in the order of `/proc/interrupts`.
fn queues(text: &str, name: &str, parents: &[&str]) -> Vec<(u32, String)> {
    let lines = text.lines().filter_map(|line| {
        let (number, rest) = line.trim_start().split_once(':')?;
        let queue = rest.split_whitespace().last()?;
        let is_ours = has_word(queue, name) || parents.iter().any(|parent| has_word(queue, parent));
        let is_queue = !NO_QUEUES.iter().any(|part| queue.contains(part));
        (is_ours && is_queue).then_some(())?;
        Some((number.parse().ok()?, queue.to_owned()))
    });
    let mut found: Vec<(u32, String)> = lines.collect();
    // Beside interrupts of queues, one with the bare name tells of the link.
    if found.iter().any(|(_, queue)| queue != name) {
        found.retain(|(_, queue)| queue != name);
    }
    found
}

/// Whether `word` stands in `text` and is no part of a longer one: `eth1` does not stand in `eth10-rx-0`.
fn has_word(text: &str, word: &str) -> bool {
    let is_part = |c: char| c.is_alphanumeric();
    !word.is_empty()
        && text.match_indices(word).any(|(at, _)| {
            let before = text[..at].chars().next_back();
            let after = text[at + word.len()..].chars().next();
            !before.is_some_and(is_part) && !after.is_some_and(is_part)
        })
}

/// `0-3,8`. What cannot be read is left out.
pub fn cpus(text: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<u32>(), last.parse::<u32>()) {
            found.extend((first..=last).take(CPUS_MAX));
        }
    }
    found
}

/// Interrupts of a device that tell of other things than frames.
const NO_QUEUES: [&str; 7] = ["config", "control", "async", "misc", "mgmt", "event", "fdir"];
/// More queues than any device has.
const IRQS_MAX: usize = 1024;
/// More CPUs than any machine has.
const CPUS_MAX: usize = 8192;

#[cfg(test)]
mod tests {
    use super::*;

    const IXGBE: &str = "\
           CPU0       CPU1
  0:         31          0   IO-APIC   2-edge      timer
 64:    1192431          0   PCI-MSI 1572864-edge      eth1-TxRx-0
 65:          2     811992   PCI-MSI 1572865-edge      eth1-TxRx-1
 66:          5          0   PCI-MSI 1572866-edge      eth1
 67:          5          0   PCI-MSI 1572867-edge      eth10-TxRx-0
NMI:          0          0   Non-maskable interrupts
";
    const I40E: &str = "\
 91:          1          0  IR-PCI-MSI 1048576-edge      i40e-0000:02:00.0:misc
 92:       1312          0  IR-PCI-MSI 1048577-edge      i40e-ens1f0-TxRx-0
 93:       1312          0  IR-PCI-MSI 1048578-edge      i40e-ens1f0-TxRx-1
 94:       1312          0  IR-PCI-MSI 1048578-edge      i40e-ens1f0:fdir-TxRx-0
";
    const MLX5: &str = "\
120:        411          0  IR-PCI-MSIX-0000:3b:00.0    0-edge      mlx5_async0@pci:0000:3b:00.0
121:     871634          0  IR-PCI-MSIX-0000:3b:00.0    1-edge      mlx5_comp0@pci:0000:3b:00.0
122:          0     871634  IR-PCI-MSIX-0000:3b:00.0    2-edge      mlx5_comp1@pci:0000:3b:00.0
123:          0     871634  IR-PCI-MSIX-0000:3b:00.1    2-edge      mlx5_comp0@pci:0000:3b:00.1
";
    const VIRTIO: &str = "\
 37:          0          0 PCI-MSIX-0000:00:03.0   0-edge      virtio2-config
 38:          0       5778 PCI-MSIX-0000:00:03.0   1-edge      virtio2-input.0
 39:       4435          0 PCI-MSIX-0000:00:03.0   2-edge      virtio2-output.0
 41:      10574          0 PCI-MSIX-0000:00:04.0   1-edge      virtio20-input.0
";

    #[test]
    fn queues_of_drivers() {
        let numbers = |text, name, parents: &[&str]| -> Vec<u32> {
            queues(text, name, parents).into_iter().map(|(number, _)| number).collect()
        };
        assert_eq!(numbers(IXGBE, "eth1", &["0000:01:00.0"]), [64, 65]);
        assert_eq!(numbers(I40E, "ens1f0", &["0000:02:00.0"]), [92, 93]);
        assert_eq!(numbers(MLX5, "enp59s0f0np0", &["0000:3b:00.0", "0000:3b:00.0"]), [121, 122]);
        assert_eq!(numbers(VIRTIO, "eth0", &["0000:00:03.0", "virtio2"]), [38, 39]);
        assert_eq!(queues(VIRTIO, "eth0", &["virtio2"])[0].1, "virtio2-input.0");
        assert!(numbers(IXGBE, "veth0", &["", ""]).is_empty());
        assert_eq!(numbers(" 16:  5  0  IO-APIC 16-fasteoi   eth0\n", "eth0", &[]), [16]);
        assert!(numbers("", "eth0", &[]).is_empty());
    }

    #[test]
    fn lists_of_cpus() {
        assert_eq!(cpus("0-2,8\n"), [0, 1, 2, 8]);
        assert_eq!(cpus("5"), [5]);
        assert!(cpus("").is_empty() && cpus("x-1,").is_empty() && cpus("3-1").is_empty());
        assert_eq!(cpus("0-4294967295").len(), CPUS_MAX);
    }
}
