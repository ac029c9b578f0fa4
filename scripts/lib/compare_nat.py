"""compare.py with the figures of `scripts/compare nat`: members and the Internet.

What a run is, how it is measured and what a verdict means stand there; here stand figures, targets and the words of the
page. Options are those of compare.py, and:

    compare_nat.py rest --server-pid PID --seconds S           what the server uses while nothing happens
    compare_nat.py exchanges --server-pid PID --period S --netns NS -- perfdhcp ...
                                                               what perfdhcp in NS came to, in S seconds of questions
    compare_nat.py users --file FILE --password P --count N    adds users m1 to mN, all with the password of the first one
"""

import argparse
import json
import pathlib
import re
import struct
import subprocess
import sys
import time

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
    Check("nat-boot", "all_leased_seconds", "s, begun over 9 s", OURS, target=10),
    Check("nat-boot", "members_without_lease", "without lease", OURS, target=0),
    Check("nat-boot", "leased_twice", "leased twice", OURS, target=0),
    Check("nat-boot", "members", "members", OURS),
    Check("nat-connections", "refused", "refused", OURS, target=0),
    Check("nat-connections", "ambiguous", "ambiguous traces", OURS, target=0),
    Check("nat-connections", "dead", "dead", OURS, target=0),
    Check("nat-connections", "misdelivered", "misdelivered", OURS, target=0),
    Check("nat-connections", "open", "open", OURS),
    Check("nat-connections", "external_endpoints", "ports used", OURS),
    Check("nat-connections", "open_server_cpu_us_per_flow", "us/connection", OURS),
    # As a cost, so that less is better: 0.5 ms an exchange are 2,000 a second.
    Check("nat-dhcp", "ms_per_exchange", "ms", OURS, target=0.5),
    Check("nat-dhcp", "lost_share", "lost, of the exchanges", OURS, target=0.001),
    Check("nat-dhcp", "lost_by_perfdhcp", "lost by perfdhcp", OURS),
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


# ---- measurements of its own --------------------------------------------------------------------------


def rest(args):
    """What the server uses while nothing happens."""
    before = compare.cpu_seconds(args.server_pid)
    time.sleep(args.seconds)
    used = compare.cpu_seconds(args.server_pid) - before
    print(json.dumps({"mode": "rest", "seconds": args.seconds, "server_cpu_seconds": used,
                      "server_cores_percent": 100 * used / args.seconds}))


def exchanges(args):
    """What perfdhcp says: of both exchanges of each client (DISCOVER and OFFER, REQUEST and ACK), sent and received."""
    before, began = compare.cpu_seconds(args.server_pid), time.monotonic()
    full_before = overflows(args.netns)
    # Its exit code is 3 if an exchange was not completed, which is a result.
    said = subprocess.run(["ip", "netns", "exec", args.netns, *args.command], capture_output=True, text=True, check=False)
    cpu, seconds = compare.cpu_seconds(args.server_pid) - before, time.monotonic() - began
    overflown = overflows(args.netns) - full_before
    count = lambda name: [int(number) for number in re.findall(rf"^{name} packets: (\d+)", said.stdout, re.MULTILINE)]
    sent, received = count("sent"), count("received")
    if len(sent) < 2 or len(received) < 2 or not received[1]:
        sys.exit(f"perfdhcp, exit code {said.returncode}: {(said.stderr + said.stdout)[-500:]}")
    print(json.dumps({
        "mode": "exchanges",
        "seconds": seconds,
        # Its own rate counts the time that it waits for the last ones, too.
        "exchanges_per_second": received[1] / args.period,
        "ms_per_exchange": 1000 * args.period / received[1],
        "exchanges": received[1],
        # perfdhcp's socket keeps a tenth of a second; what arrived there and found no room was not lost on its way.
        "lost_share": max(0, sent[0] - received[1] - overflown) / sent[0],
        "lost_by_perfdhcp": overflown,
        "server_cpu_us_per_exchange": 1e6 * cpu / max(1, received[1]),
    }))


def overflows(netns):
    """Datagrams there that found no room at their receiver."""
    said = subprocess.run(["ip", "netns", "exec", netns, "cat", "/proc/net/snmp"], capture_output=True, text=True, check=True)
    names, values = [line.split()[1:] for line in said.stdout.splitlines() if line.startswith("Udp:")]
    return int(values[names.index("RcvbufErrors")])


def users(args):
    """Adds users m1, m2 ... to a file of accounts, as its first user stands there."""
    path = pathlib.Path(args.file)
    accounts = json.loads(path.read_text(encoding="utf-8"))
    like = accounts["users"][0]
    if like["hashed_password"] != hashed_password(args.password, like["name"]):
        sys.exit(f"{path}: accounts have another form than this program knows")
    for number in range(1, args.count + 1):
        name = f"m{number}"
        accounts["users"].append(like | {"name": name, "member": accounts["next_member"],
                                         "hashed_password": hashed_password(args.password, name)})
        accounts["next_member"] += 1
    path.write_text(json.dumps(accounts), encoding="utf-8")


def hashed_password(password, user):
    """SHA-0 of the password and the user's name in capitals: what SoftEther keeps."""
    return sha0(password.encode() + user.upper().encode()).hex()


def sha0(text):
    """FIPS 180: SHA-1 without the rotation in its message schedule."""
    turn = lambda word, by: (word << by | word >> 32 - by) & 0xFFFFFFFF
    text += b"\x80" + b"\0" * ((55 - len(text)) % 64) + struct.pack("!Q", 8 * len(text))
    state = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0]
    for at in range(0, len(text), 64):
        words = list(struct.unpack("!16I", text[at : at + 64]))
        for i in range(16, 80):
            words.append(words[i - 3] ^ words[i - 8] ^ words[i - 14] ^ words[i - 16])
        a, b, c, d, e = state
        for i, word in enumerate(words):
            f, k = [(b & c | ~b & d, 0x5A827999), (b ^ c ^ d, 0x6ED9EBA1), (b & c | b & d | c & d, 0x8F1BBCDC),
                    (b ^ c ^ d, 0xCA62C1D6)][i // 20]
            a, b, c, d, e = (turn(a, 5) + (f & 0xFFFFFFFF) + e + k + word) & 0xFFFFFFFF, a, turn(b, 30), c, d
        state = [(old + new) & 0xFFFFFFFF for old, new in zip(state, (a, b, c, d, e))]
    return struct.pack("!5I", *state)


def own_arguments():
    parser = argparse.ArgumentParser()
    modes = parser.add_subparsers(dest="mode", required=True)
    a = modes.add_parser("rest")
    a.add_argument("--server-pid", type=int, required=True)
    a.add_argument("--seconds", type=float, required=True)
    a = modes.add_parser("exchanges")
    a.add_argument("--server-pid", type=int, required=True)
    a.add_argument("--period", type=float, required=True)
    a.add_argument("--netns", required=True)
    a.add_argument("command", nargs="+")
    a = modes.add_parser("users")
    for name in ("file", "password"):
        a.add_argument(f"--{name}", required=True)
    a.add_argument("--count", type=int, required=True)
    return parser.parse_args()


def main():
    own = {"rest": rest, "exchanges": exchanges, "users": users}
    if sys.argv[1:2] and sys.argv[1] in own:
        return own[sys.argv[1]](own_arguments()) or 0
    frames_page = compare.page
    compare.TITLES = TITLES
    compare.CHECKS = CHECKS
    compare.page = lambda *args: frames_page(*args, about=ABOUT)
    return compare.main()


if __name__ == "__main__":
    sys.exit(main())
