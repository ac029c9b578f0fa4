"""compare.py with the figures of `scripts/compare nat`: members and the Internet.

What a run is, how it is measured and what a verdict means stand there; here stand figures, targets and the words of the
page. Options are those of compare.py.
"""

import sys

import compare
from compare import P99, PER_GB, Check

MACHINE = "machine_cpu_s_per_gb"

TITLES = {
    "nat-up": "member to Internet, 1 TCP stream",
    "nat-down": "Internet to member, 1 TCP stream",
    "nat-down-4": "Internet to member, 4 TCP streams",
    "nat-ping": "ping to the Internet, 200 a second",
    "nat-idle": "gateway up, no members",
    "nat-boot": "5,000 members get an address",
    "nat-connections": "5,000 members x 100 TCP connections, one address",
    "nat-dhcp": "perfdhcp through a relay",
}

OURS, USER, KERNEL, NFT = "ours-nat", "snat-user", "snat-kernel", "nft"

# A cost by the better of two modes is at most 1/8 if it is at most 1/8 of each.
EIGHTH = 0.125


def streams():
    """Cost of bytes, each direction."""
    for figure in ("nat-up", "nat-down", "nat-down-4"):
        target = None if figure == "nat-down-4" else EIGHTH
        yield Check(figure, PER_GB, "s/GB", OURS, USER, target)
        yield Check(figure, PER_GB, "s/GB", OURS, KERNEL, target)
        yield Check(figure, PER_GB, "s/GB", OURS, NFT)
        yield Check(figure, MACHINE, "s/GB, machine", OURS, NFT)
        yield Check(figure, MACHINE, "s/GB, machine", OURS, KERNEL)
        for system in (OURS, USER, KERNEL, NFT):
            yield Check(figure, "mbit_per_second", "Mbit/s", system)


CHECKS = [
    *streams(),
    *(Check("nat-ping", P99, "us p99", OURS, other) for other in (USER, KERNEL, NFT)),
    Check("nat-idle", "server_cores_percent", "% of a core", OURS, target=0.5),
    Check("nat-boot", "all_leased_seconds", "s", OURS, target=10),
    Check("nat-boot", "members_without_lease", "members", OURS, target=0),
    Check("nat-boot", "leased_twice", "addresses", OURS, target=0),
    Check("nat-connections", "refused", "connections", OURS, target=0),
    Check("nat-connections", "ambiguous", "traces", OURS, target=0),
    Check("nat-connections", "open", "connections", OURS),
    # As a cost, so that less is better: 0.5 ms an exchange are 2,000 a second.
    Check("nat-dhcp", "ms_per_exchange", "ms", OURS, target=0.5),
    Check("nat-dhcp", "lost_share", "of the exchanges", OURS, target=0.001),
]

ABOUT = {
    "title": "Members and the Internet, side by side",
    "question": "what do a member's bytes to and from the Internet cost the server, beside both modes of stock SecureNAT and "
    "beside the kernel's own NAT behind a stock hub?",
    "placing": "All servers on CPU 1, at the same nice level; stock clients, both ends of iperf3 and this script on CPU 0.",
    "caveats": "rates are those of clients and load, which share CPU 0, as much as the server's. CPU is the server "
    "process's: what the kernel does for a packet that comes from the Internet it does on the CPU of whoever sent it, here "
    "CPU 0, so its own NAT (system nft) looks cheaper than it is; the busy time of the whole machine beside it includes all of "
    "that, and clients and iperf3, which are the same for all systems. Figures of virtual machines differ by 15 % from run to "
    "run.",
}


def main():
    frames_page = compare.page
    compare.TITLES = TITLES
    compare.CHECKS = CHECKS
    compare.page = lambda *args: frames_page(*args, about=ABOUT)
    return compare.main()


if __name__ == "__main__":
    sys.exit(main())
