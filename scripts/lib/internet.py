"""The Internet of the NAT tests: a DNS server, a web server, and a mirror, on every address of its namespace.

    internet.py ADDRESS [OTHER...]

Every name has ADDRESS as its A record and no other record. The others are further addresses that UDP answers from. The mirror (port 3478, UDP and TCP) answers with the address
and port that it sees, as text "ADDRESS PORT\\n": how a member learns what its NAT has made of it. A line goes to standard
output for each question and each visitor of the mirror.
"""

import http.server
import socket
import socketserver
import struct
import sys
import threading

MIRROR_PORT = 3478


def answer(query, address):
    """The answer to a DNS query: one A record, or none."""
    at = 12
    while at < len(query) and query[at]:
        at += query[at] + 1
    end = at + 5
    if len(query) < end:
        return b""
    kind, group = struct.unpack("!HH", query[at + 1 : end])
    known = (kind, group) == (1, 1)
    print("dns", kind, query[12:at], flush=True)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(address) if known else b""
    head = query[:2] + bytes([0x80 | query[2] & 0x79, 0x80]) + struct.pack("!HHHH", 1, int(known), 0, 0)
    return head + query[12:end] + record


class Dns(socketserver.BaseRequestHandler):
    """UDP."""

    def handle(self):
        query, sock = self.request
        if said := answer(query, self.server.address):
            sock.sendto(said, self.client_address)


class DnsTcp(socketserver.StreamRequestHandler):
    """TCP: each message after its length."""

    timeout = 5

    def handle(self):
        try:
            while len(head := self.rfile.read(2)) == 2:
                said = answer(self.rfile.read(struct.unpack("!H", head)[0]), self.server.address)
                self.wfile.write(struct.pack("!H", len(said)) + said)
        except OSError:
            pass


class Mirror(socketserver.BaseRequestHandler):
    """UDP."""

    def handle(self):
        print("mirror udp", *self.client_address, flush=True)
        self.request[1].sendto(b"%s %d\n" % (self.client_address[0].encode(), self.client_address[1]), self.client_address)


class MirrorTcp(socketserver.BaseRequestHandler):
    """TCP: what else the visitor says goes back to him, until he ends."""

    def handle(self):
        print("mirror tcp", *self.client_address, flush=True)
        try:
            self.request.sendall(b"%s %d\n" % (self.client_address[0].encode(), self.client_address[1]))
            self.request.settimeout(60)
            while said := self.request.recv(4096):
                self.request.sendall(said)
        except OSError:
            pass


class Web(http.server.BaseHTTPRequestHandler):
    """Every page is the same."""

    def do_GET(self):  # noqa: N802, the library's name
        page = b"the Internet\n"
        self.send_response(200)
        self.send_header("Content-Length", str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, format, *args):  # noqa: A002, the library's name
        print("web", self.client_address[0], format % args, flush=True)


class Udp(socketserver.ThreadingUDPServer):
    """Answers come from the address that was asked: one socket for each address of the namespace."""

    daemon_threads = True
    allow_reuse_address = True


class Tcp(socketserver.ThreadingTCPServer):
    """Any number at once."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 1024


def main():
    address, *others = sys.argv[1:]
    servers = [Tcp(("", 53), DnsTcp), Tcp(("", MIRROR_PORT), MirrorTcp), Tcp(("", 80), Web)]
    for own in (address, *others):
        servers += [Udp((own, 53), Dns), Udp((own, MIRROR_PORT), Mirror)]
    for server in servers:
        server.address = address
        threading.Thread(target=server.serve_forever, daemon=True).start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
