"""Servers and proxies that should not be met: for `scripts/interop bad`.

    badpeer.py ADDRESS PORT MODE [ARGUMENT...]

Each connection is served as MODE says, one line a call on standard output. Modes of a proxy begin with `proxy-`; all
others are a VPN server up to the moment at which it goes wrong. The certificate stands in BADPEER_CERT and BADPEER_KEY.
"""
import os
import socket
import ssl
import struct
import sys
import threading
import time
import zlib

from rawclient import DATA, pack, unpack

MODE, ARGUMENTS = sys.argv[3], sys.argv[4:]
LONG = 0xFFFFFFFF
HELLO = {"hello": "Bad Server", "version": 501, "build": 1, "random": bytes(20)}
WELCOME = {
    "session_name": "SID-BAD-1",
    "connection_name": "CID-1",
    "session_key": b"k" * 20,
    "session_key_32": 1,
    "max_connection": 1,
    "use_encrypt": 1,
    "use_compress": 0,
    "half_connection": 0,
    "timeout": 20000,
}


def answer(body, length=None):
    head = "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\nContent-Length: %s\r\n\r\n"
    return (head % (len(body) if length is None else length)).encode() + body


def request(conn):
    """Head and body of the next request."""
    data = b""
    while b"\r\n\r\n" not in data:
        more = conn.recv(65536)
        if not more:
            raise OSError("ended")
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    size = 0
    for line in head.decode().lower().split("\r\n"):
        if line.startswith("content-length:"):
            size = int(line.partition(":")[2])
    while len(body) < size:
        more = conn.recv(65536)
        if not more:
            raise OSError("ended")
        body += more
    return head.decode(), body


def hold(conn):
    """Says nothing more, until the other end has enough."""
    while conn.recv(65536):
        pass


def drip(conn):
    """A byte now and then, each in time."""
    conn.sendall(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        time.sleep(3)
        conn.sendall(b"y")


# What is answered to the signature instead of the Hello.
FIRST = {
    "half-answer": b"HTTP/1.1 200 O",
    "web": b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno",
    "smtp-inside": b"220 mail.example ESMTP\r\n",
    "length-huge": answer(b"", "99999999999999"),
    "length-negative": answer(b"", "-1"),
    "length-more": answer(pack(HELLO), "60000"),
    "headers-endless": b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000,
    "line-endless": b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000000,
    "pack-elements": answer(struct.pack(">I", LONG)),
    "pack-values": answer(struct.pack(">II", 1, 6) + b"hello" + struct.pack(">II", DATA, LONG)),
    "pack-bytes": answer(struct.pack(">II", 1, 6) + b"hello" + struct.pack(">III", DATA, 1, LONG)),
    "pack-name": answer(struct.pack(">II", 1, LONG)),
    "hello-bare": answer(pack({"hello": "x"})),
}

# What follows the welcome.
STREAM = {
    "block-huge": struct.pack(">II", 1, LONG),
    "block-3201": struct.pack(">II", 1, 3201),
    "keep-alive-huge": struct.pack(">II", LONG, LONG),
    "keep-alive-513": struct.pack(">II", LONG, 513),
}


def endless(conn, piece, seconds=6):
    """The same bytes for a while, as fast as they are taken."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        conn.sendall(piece)


def stream(conn):
    if MODE in STREAM:
        conn.sendall(STREAM[MODE])
    elif MODE == "blocks-empty":
        # So many blocks are announced, and none of them has anything in it.
        conn.sendall(struct.pack(">I", LONG - 1))
        endless(conn, bytes(16384))
    elif MODE == "keep-alives":
        endless(conn, (struct.pack(">II", LONG, 512) + bytes(512)) * 30)
    elif MODE == "inflate-bomb":
        bomb = zlib.compress(bytes(2_000_000), 9)
        endless(conn, struct.pack(">II", 1, len(bomb)) + bomb)
    elif MODE == "frames-flood":
        frame = b"\xff" * 6 + b"\x5e\0\0\0\0\1" + b"\x88\xb5" + bytes(1400)
        endless(conn, struct.pack(">II", 1, len(frame)) + frame)
    hold(conn)


def server(raw):
    if MODE == "silent":
        return hold(raw)
    if MODE == "closes":
        return None
    if MODE == "smtp":
        raw.sendall(b"220 mail.example ESMTP\r\n")
        return hold(raw)
    if MODE == "half-hello":
        raw.recv(65536)
        raw.sendall(b"\x16\x03\x03\x00\x7a\x02\x00\x00\x76\x03\x03")
        return hold(raw)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(os.environ["BADPEER_CERT"], os.environ["BADPEER_KEY"])
    conn = context.wrap_socket(raw, server_side=True)
    if MODE == "silent-inside":
        return hold(conn)
    request(conn)
    if MODE == "drip":
        return drip(conn)
    if MODE in FIRST:
        conn.sendall(FIRST[MODE])
        return hold(conn)
    conn.sendall(answer(pack(HELLO)))
    asked = unpack(request(conn)[1])
    if asked["method"] != b"login":
        # It knows no session: the card has to log in again.
        conn.sendall(answer(pack({"error": 13})))
        return hold(conn)
    if MODE == "noops":
        while True:
            conn.sendall(answer(pack({"error": 0, "noop": 1})))
            time.sleep(0.05)
    if MODE == "code-unknown":
        conn.sendall(answer(pack({"error": 4000000000})))
        return hold(conn)
    welcome = dict(WELCOME)
    if MODE == "welcome-numbers":
        welcome.update(max_connection=LONG, timeout=LONG, qos=LONG, vlan_id=LONG)
    if MODE == "welcome-texts":
        welcome.update(session_name="\x1b]0;owned\x07" + "S" * 30000, Msg=b"\x1b[2J" + b"M" * 30000)
    if MODE == "welcome-bare":
        del welcome["session_key"]
    if MODE == "unencrypted":
        welcome.update(use_encrypt=0)
    if MODE == "inflate-bomb":
        welcome.update(use_compress=1)
    conn.sendall(answer(pack(welcome)))
    return stream(conn)


# What a proxy says, and whether it ends then.
PROXY = {
    "proxy-407": (b"HTTP/1.1 407 x\r\nProxy-Authenticate: Basic realm=x\r\nContent-Length: 0\r\n\r\n", False),
    "proxy-smtp": (b"220 mail.example ESMTP\r\n", False),
    "proxy-half": (b"HTTP/1.1 200 Conn", False),
    "proxy-half-end": (b"HTTP/1.1 200 Conn", True),
    "proxy-silent": (b"", False),
    "proxy-ends": (b"", True),
    "proxy-headers": (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 20000, False),
    "proxy-403": (b"HTTP/1.1 403 x\r\nContent-Length: 0\r\n\r\n", True),
}


def proxy(conn):
    head = request(conn)[0]
    if MODE in PROXY:
        says, ends = PROXY[MODE]
        conn.sendall(says)
        return None if ends else hold(conn)
    # proxy-cut SECONDS: it does its work, for so long.
    host, _, port = head.split()[1].rpartition(":")
    there = socket.create_connection((host, int(port)), 5)
    conn.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")

    def pump(a, b):
        try:
            while data := a.recv(65536):
                b.sendall(data)
        except OSError:
            pass

    for pair in ((conn, there), (there, conn)):
        threading.Thread(target=pump, args=pair, daemon=True).start()
    time.sleep(float(ARGUMENTS[0]))
    for end in (conn, there):
        end.shutdown(socket.SHUT_RDWR)
    return None


def serve(conn):
    print("call", flush=True)
    try:
        (proxy if MODE.startswith("proxy-") else server)(conn)
    except (OSError, KeyError, ValueError) as error:
        print("over: %s" % error, flush=True)
    finally:
        conn.close()


def main():
    listener = socket.create_server((sys.argv[1], int(sys.argv[2])))
    print("listening", flush=True)
    while True:
        conn, _ = listener.accept()
        threading.Thread(target=serve, args=(conn,), daemon=True).start()


main()
