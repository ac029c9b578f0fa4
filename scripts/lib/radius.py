"""A RADIUS server for the stock server to ask: one user, one password, PAP only (RFC 2865).

  radius.py ADDRESS PORT SECRET USER PASSWORD

It prints a line for each question: the user, and whether he may come in.
"""
import hashlib
import socket
import struct
import sys

ACCESS_REQUEST, ACCEPT, REJECT = 1, 2, 3
USER_NAME, USER_PASSWORD = 1, 2


def attributes(packet):
    """Type and value of each attribute (RFC 2865 section 5)."""
    at = 20
    while at + 2 <= len(packet):
        kind, length = packet[at], packet[at + 1]
        if length < 2:
            return
        yield kind, packet[at + 2 : at + length]
        at += length


def password(hidden, secret, authenticator):
    """The password as the user typed it (section 5.2)."""
    plain, before = b"", authenticator
    for at in range(0, len(hidden), 16):
        block = hidden[at : at + 16]
        plain += bytes(a ^ b for a, b in zip(block, hashlib.md5(secret + before).digest()))
        before = block
    return plain.rstrip(b"\0")


def answer(packet, secret, user, right):
    """The answer to a question, and what to say about it; nothing if it is none."""
    code, number, length = struct.unpack("!BBH", packet[:4])
    if code != ACCESS_REQUEST or length > len(packet):
        return None, "not a question"
    asked = packet[4:20]
    told = dict(attributes(packet[:length]))
    who = told.get(USER_NAME, b"").decode(errors="replace")
    good = USER_PASSWORD in told and who == user and password(told[USER_PASSWORD], secret, asked).decode(errors="replace") == right
    head = struct.pack("!BBH", ACCEPT if good else REJECT, number, 20)
    return head + hashlib.md5(head + asked + secret).digest(), "%s %s" % (who, "accepted" if good else "rejected")


def main():
    address, port, secret, user, right = sys.argv[1:]
    server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    server.bind((address, int(port)))
    print("listening", flush=True)
    while True:
        packet, peer = server.recvfrom(4096)
        if len(packet) < 20:
            continue
        said, words = answer(packet, secret.encode(), user, right)
        print(words, flush=True)
        if said:
            server.sendto(said, peer)


main()
