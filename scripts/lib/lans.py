"""What programs of a LAN say to all others there, said and answered in earnest: mDNS, NetBIOS, and a storm.

    lans.py answer ADDRESS NAME         answers for NAME (and says "ready"), until it is killed
    lans.py mdns ADDRESS NAME           asks 224.0.0.251:5353 for NAME.local; prints its address
    lans.py netbios ADDRESS NAME TO     asks the broadcast address TO by port 137 for NAME, prints its address, and sends
                                        a datagram by port 138
    lans.py storm DEVICE SECONDS RATE   RATE broadcast frames a second by DEVICE

ADDRESS is the own one. Formats: RFC 6762, RFC 1002 section 4.2.
"""
import select
import socket
import struct
import sys
import time

MDNS = ("224.0.0.251", 5353)
NAME_PORT, DATAGRAM_PORT = 137, 138


def labels(name):
    return b"".join(bytes([len(part)]) + part.encode() for part in name.split(".")) + b"\0"


def netbios_name(name):
    """First-level encoding of a workstation's name (RFC 1001 section 14.1)."""
    padded = name.upper().ljust(15).encode() + b"\0"
    return b"\x20" + bytes(65 + half for byte in padded for half in (byte >> 4, byte & 15)) + b"\0"


def multicast(address):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind(("", MDNS[1]))
    here = socket.inet_aton(address)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, socket.inet_aton(MDNS[0]) + here)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, here)
    s.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 255)
    return s


def broadcaster(address, port):
    s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    s.bind((address, port))
    return s


def answer(address, name):
    local, coded = labels(name + ".local"), netbios_name(name)
    mdns, names, datagrams = multicast(address), broadcaster("", NAME_PORT), broadcaster("", DATAGRAM_PORT)
    print("ready", flush=True)
    while True:
        for s in select.select([mdns, names, datagrams], [], [])[0]:
            data, peer = s.recvfrom(2048)
            if s is mdns and data[2] & 0x80 == 0 and local in data:
                record = local + struct.pack(">HHIH", 1, 0x8001, 120, 4) + socket.inet_aton(address)
                # Multicast, as RFC 6762 section 6 has it: everybody on the link hears the answer.
                mdns.sendto(struct.pack(">HHHHHH", 0, 0x8400, 0, 1, 0, 0) + record, MDNS)
            elif s is names and data[2] & 0x80 == 0 and coded in data:
                head = data[:2] + struct.pack(">HHHHH", 0x8500, 0, 1, 0, 0)
                record = coded + struct.pack(">HHIHH", 0x20, 1, 60, 6, 0) + socket.inet_aton(address)
                names.sendto(head + record, peer)
            elif s is datagrams:
                print("datagram from", peer[0], flush=True)


def reply(s, wanted, seconds=3):
    """The last four bytes of the first answer that has `wanted` in it, as an address."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        if select.select([s], [], [], left)[0]:
            data, _ = s.recvfrom(2048)
            if data[2] & 0x80 and wanted in data:
                return socket.inet_ntoa(data[-4:])
    sys.exit("no answer")


def ask_mdns(address, name):
    s, local = multicast(address), labels(name + ".local")
    s.sendto(struct.pack(">HHHHHH", 0, 0, 1, 0, 0, 0) + local + struct.pack(">HH", 1, 1), MDNS)
    print(reply(s, local))


def ask_netbios(address, name, to):
    coded = netbios_name(name)
    s = broadcaster("", NAME_PORT)
    head = struct.pack(">HHHHHH", 0x4242, 0x0110, 1, 0, 0, 0)
    s.sendto(head + coded + struct.pack(">HH", 0x20, 1), (to, NAME_PORT))
    print(reply(s, coded))
    # DIRECT_GROUP DATAGRAM without anything in it.
    body = netbios_name("ASKER") + coded
    head = struct.pack(">BBH4sHHH", 0x11, 2, 7, socket.inet_aton(address), DATAGRAM_PORT, len(body), 0)
    broadcaster("", DATAGRAM_PORT).sendto(head + body, (to, DATAGRAM_PORT))


def storm(device, seconds, rate):
    s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
    s.bind((device, 0))
    source = s.getsockname()[4]
    begin, sent = time.monotonic(), 0
    while (passed := time.monotonic() - begin) < float(seconds):
        while sent < passed * float(rate):
            s.send(b"\xff" * 6 + source + b"\x88\xb5" + sent.to_bytes(4, "big") + bytes(100))
            sent += 1
        time.sleep(0.005)


COMMANDS = {"answer": answer, "mdns": ask_mdns, "netbios": ask_netbios, "storm": storm}
COMMANDS[sys.argv[1]](*sys.argv[2:])
