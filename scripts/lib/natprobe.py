"""What a member behind a NAT can try, one thing a call; each prints what it saw and ends with 1 if it did not work.

    natprobe.py resolve SERVER NAME [--tcp]           asks a DNS server for an A record
    natprobe.py listen MIRROR PORT FILE [--tcp]       waits behind the NAT: see `listen`
    natprobe.py call MIRROR PORT FILE TEXT [--tcp]    talks to who waits: see `call`
    natprobe.py syn INTERFACE GATEWAY ADDRESS PORT    a SYN that the kernel itself would not send, and who answers
    natprobe.py hold MIRROR FILE                      keeps a TCP connection busy; the number of answers goes to FILE
"""

import argparse
import errno
import pathlib
import random
import select
import socket
import struct
import sys
import time

MIRROR_PORT = 3478
PATIENCE = 10.0


def mark(path, text):
    """Writes the file whole: others wait for it."""
    part = pathlib.Path(f"{path}.part")
    part.write_text(text, encoding="ascii")
    part.rename(path)


def wait_for(path):
    """The text of a file as soon as it is there."""
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if pathlib.Path(path).exists():
            return pathlib.Path(path).read_text(encoding="ascii")
        time.sleep(0.05)
    sys.exit(f"{path} did not come")


def endpoint(text):
    address, port = text.split()
    return address, int(port)


# ---- names --------------------------------------------------------------------------------------------


def resolve(args):
    number = random.getrandbits(16)
    labels = b"".join(bytes([len(label)]) + label.encode() for label in args.name.split("."))
    query = struct.pack("!HHHHHH", number, 0x0100, 1, 0, 0, 0) + labels + b"\0" + struct.pack("!HH", 1, 1)
    if args.tcp:
        with socket.create_connection((args.server, 53), PATIENCE) as sock:
            sock.sendall(struct.pack("!H", len(query)) + query)
            said = sock.makefile("rb")
            said = said.read(struct.unpack("!H", said.read(2))[0])
    else:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.settimeout(PATIENCE)
            sock.connect((args.server, 53))
            sock.send(query)
            said = sock.recv(4096)
    got, flags, _, answers = struct.unpack("!HHHH", said[:8])
    if got != number or flags & 0x800F != 0x8000 or answers != 1:
        sys.exit(f"answer {said.hex()}")
    print(socket.inet_ntoa(said[-4:]))


# ---- hairpin ------------------------------------------------------------------------------------------
# Both members ask the mirror how they are seen, tell each other by files, and send to what they were told: the first
# thing that each sends opens its own NAT for the other where filtering is by address (RFC 5128, 3.3 and 3.4).


def own_socket(args):
    """A socket on the member's port, and how the mirror sees that port."""
    kind = socket.SOCK_STREAM if args.tcp else socket.SOCK_DGRAM
    sock = bound(kind, args.port)
    sock.settimeout(PATIENCE)
    sock.connect((args.mirror, MIRROR_PORT))
    if not args.tcp:
        sock.send(b"?")
    seen = sock.recv(64).decode()
    if args.tcp:
        # The connection to the mirror stays: it holds the mapping. The next one is from the same port.
        return (sock, bound(kind, args.port)), seen
    sock.close()
    return (bound(kind, args.port),), seen


def bound(kind, port):
    sock = socket.socket(socket.AF_INET, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("", port))
    return sock


def listen(args):
    """Says in FILE how it is seen, opens its NAT for the caller, and sends back what the caller sends."""
    sockets, seen = own_socket(args)
    mark(args.file, seen)
    caller = endpoint(wait_for(f"{args.file}.caller"))
    sock = sockets[-1]
    sock.settimeout(PATIENCE)
    if args.tcp:
        visitor = opened(args, sock, caller)
        visitor.sendall(visitor.recv(2048))
    else:
        sock.sendto(b"open", caller)
        mark(f"{args.file}.open", "")
        text, who = sock.recvfrom(2048)
        while text == b"open":
            text, who = sock.recvfrom(2048)
        print("heard from", *who, flush=True)
        sock.sendto(text, who)
    time.sleep(0.5)


def opened(args, sock, caller):
    """A TCP connection from `caller`: his SYN meets ours (simultaneous open), or finds a listener if ours was refused."""
    waiting = bound(socket.SOCK_STREAM, args.port)
    waiting.listen()
    sock.setblocking(False)
    refused = sock.connect_ex(caller) not in (0, errno.EINPROGRESS)
    mark(f"{args.file}.open", "")
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        came, ready, _ = select.select([waiting], [] if refused else [sock], [], 1)
        if came:
            return waiting.accept()[0]
        if ready:
            refused = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) != 0
            if not refused:
                sock.settimeout(PATIENCE)
                return sock
    sys.exit("nobody came")


def call(args):
    """Sends TEXT to where FILE says, and prints from where the answer comes: the other's external endpoint."""
    sockets, seen = own_socket(args)
    target = endpoint(wait_for(args.file))
    mark(f"{args.file}.caller", seen)
    wait_for(f"{args.file}.open")
    time.sleep(0.3)
    sock = sockets[-1]
    sock.settimeout(PATIENCE)
    if args.tcp:
        sock.connect(target)
        sock.sendall(args.text.encode())
        text, who = sock.recv(2048), sock.getpeername()
    else:
        sock.sendto(args.text.encode(), target)
        text, who = sock.recvfrom(2048)
        while text == b"open":
            text, who = sock.recvfrom(2048)
    if text.decode() != args.text or who != target:
        sys.exit(f"answer {text!r} from {who}, not from {target}")
    print(f"{seen.strip()} -> {target[0]} {target[1]}")


# ---- addresses that the kernel keeps for itself -------------------------------------------------------


def total(words):
    """Sum in ones' complement (RFC 1071)."""
    words += b"\0" * (len(words) % 2)
    value = sum(struct.unpack(f"!{len(words) // 2}H", words))
    while value >> 16:
        value = (value & 0xFFFF) + (value >> 16)
    return ~value & 0xFFFF


def syn(args):
    """From the interface's address to the gateway's card. Prints `nothing`, or what came back within two seconds."""
    own, gateway = addresses(args.interface, args.gateway)
    source, target = socket.inet_aton(own), socket.inet_aton(args.address)
    port = random.randrange(20000, 60000)
    tcp = struct.pack("!HHIIBBHHH", port, args.port, 1, 0, 5 << 4, 2, 65535, 0, 0)
    check = total(source + target + struct.pack("!HH", 6, len(tcp)) + tcp)
    tcp = tcp[:16] + struct.pack("!H", check) + tcp[18:]
    head = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 20 + len(tcp), 1, 0, 64, 6, 0, source, target)
    head = head[:10] + struct.pack("!H", total(head)) + head[12:]
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
    sock.bind((args.interface, 0x0800))
    sock.sendto(head + tcp, (args.interface, 0x0800, 0, 0, gateway))
    end = time.monotonic() + 2
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            packet = sock.recv(2048)
        except TimeoutError:
            break
        start = (packet[0] & 15) * 4
        if packet[9] == 6 and packet[16:20] == source and packet[start + 2 : start + 4] == struct.pack("!H", port):
            flags = packet[start + 13]
            print("RST" if flags & 4 else f"TCP flags {flags:#x}", "from", socket.inet_ntoa(packet[12:16]))
            # A refusal is no way in.
            return 0 if flags & 4 else 1
        if packet[9] == 1 and packet[start] == 3 and target in packet[start + 8 :]:
            print("ICMP unreachable, code", packet[start + 1], "from", socket.inet_ntoa(packet[12:16]))
            return 0
    print("nothing")
    return 0


def addresses(interface, router):
    """The interface's IPv4 address, and the card of the gateway behind it, from the kernel's tables."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        asked = struct.pack("256s", interface.encode())
        own = socket.inet_ntoa(fcntl.ioctl(sock, 0x8915, asked)[20:24])  # SIOCGIFADDR
    for line in pathlib.Path("/proc/net/arp").read_text(encoding="ascii").splitlines()[1:]:
        words = line.split()
        if (words[5], words[0]) == (interface, router) and words[3] != "00:00:00:00:00:00":
            return own, bytes.fromhex(words[3].replace(":", ""))
    sys.exit(f"{router} is not known behind {interface}")


# ---- a connection that must last ----------------------------------------------------------------------


def hold(args):
    sock = socket.create_connection((args.mirror, MIRROR_PORT), PATIENCE)
    sock.settimeout(5)
    sock.recv(64)
    for count in range(10_000):
        sock.sendall(b"x")
        if sock.recv(16) != b"x":
            sys.exit("the connection has ended")
        mark(args.file, str(count + 1))
        time.sleep(0.05)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    a = modes.add_parser("resolve")
    a.add_argument("server")
    a.add_argument("name")
    a.add_argument("--tcp", action="store_true")
    for mode in ("listen", "call"):
        a = modes.add_parser(mode)
        a.add_argument("mirror")
        a.add_argument("port", type=int)
        a.add_argument("file")
        if mode == "call":
            a.add_argument("text")
        a.add_argument("--tcp", action="store_true")
    a = modes.add_parser("syn")
    for name in ("interface", "gateway", "address"):
        a.add_argument(name)
    a.add_argument("port", type=int)
    a = modes.add_parser("hold")
    a.add_argument("mirror")
    a.add_argument("file")
    args = parser.parse_args()
    try:
        return globals()[args.mode](args) or 0
    except OSError as error:
        sys.exit(f"{args.mode}: {error}")


if __name__ == "__main__":
    sys.exit(main())
