"""A small client of the SoftEther protocol that can also do it wrong: TLS over a socket of its own, PACKs, blocks.

Python's own ssl module, over memory: what goes out as TLS records can be looked at, spoilt or left out.
"""
import os
import socket
import ssl
import struct
import time


class Closed(Exception):
    """The server ended the connection: by close_notify (clean), or otherwise."""

    def __init__(self, clean, how):
        super().__init__(how)
        self.clean = clean


class Refused(Exception):
    """An answer with an error code."""

    def __init__(self, code):
        super().__init__("error %d" % code)
        self.code = code


def sha0(data):
    """SHA-1 without the rotation in the message schedule (protocol note, section 3.3)."""
    mask = 0xFFFFFFFF

    def rotate(x, n):
        return ((x << n) | (x >> (32 - n))) & mask

    h = [0x67452301, 0xEFCDAB89, 0x98BADCFE, 0x10325476, 0xC3D2E1F0]
    bits = len(data) * 8
    data += b"\x80"
    data += bytes(-(len(data) + 8) % 64) + struct.pack(">Q", bits)
    for at in range(0, len(data), 64):
        w = list(struct.unpack(">16I", data[at : at + 64]))
        for t in range(16, 80):
            w.append(w[t - 3] ^ w[t - 8] ^ w[t - 14] ^ w[t - 16])
        a, b, c, d, e = h
        for t in range(80):
            if t < 20:
                f, k = (b & c) | (~b & d), 0x5A827999
            elif t < 40:
                f, k = b ^ c ^ d, 0x6ED9EBA1
            elif t < 60:
                f, k = (b & c) | (b & d) | (c & d), 0x8F1BBCDC
            else:
                f, k = b ^ c ^ d, 0xCA62C1D6
            a, b, c, d, e = (rotate(a, 5) + (f & mask) + e + k + w[t]) & mask, a, rotate(b, 30), c, d
        h = [(x + y) & mask for x, y in zip(h, (a, b, c, d, e))]
    return struct.pack(">5I", *h)


# ---- PACK ---------------------------------------------------------------------------------------------

INT, DATA, STR, UNISTR, INT64 = range(5)


def element(name, value):
    """One element; int, bytes (data), str, or (type, [raw values])."""
    name = name.encode()
    head = struct.pack(">I", len(name) + 1) + name
    if isinstance(value, int):
        return head + struct.pack(">III", INT, 1, value)
    if isinstance(value, bytes):
        return head + struct.pack(">III", DATA, 1, len(value)) + value
    if isinstance(value, str):
        return head + struct.pack(">III", STR, 1, len(value.encode())) + value.encode()
    kind, values = value
    return head + struct.pack(">II", kind, len(values)) + b"".join(values)


def pack(fields):
    """A PACK of a dict, or of a list of (name, value), where names may stand twice."""
    items = list(fields.items() if isinstance(fields, dict) else fields)
    return struct.pack(">I", len(items)) + b"".join(element(name, value) for name, value in items)


def unpack(data):
    """First value of each element, by name."""
    at = 4

    def word():
        nonlocal at
        at += 4
        return struct.unpack(">I", data[at - 4 : at])[0]

    found = {}
    for _ in range(struct.unpack(">I", data[:4])[0]):
        size = word() - 1
        name = data[at : at + size].decode()
        at += size
        kind, count = word(), word()
        for number in range(count):
            if kind == INT:
                value = word()
            elif kind == INT64:
                value = word() << 32 | word()
            else:
                size = word()
                value = data[at : at + size]
                at += size
            if number == 0:
                found[name] = value
    return found


def post(path, body, content_type="application/octet-stream"):
    head = "POST %s HTTP/1.1\r\nConnection: Keep-Alive\r\nContent-Length: %d\r\nContent-Type: %s\r\nHost: h\r\n\r\n"
    return (head % (path, len(body), content_type)).encode() + body


SIGNATURE = post("/vpnsvc/connect.cgi", b"VPNCONNECT", "image/jpeg")


def request(fields):
    return post("/vpnsvc/vpn.cgi", pack(fields))


# ---- TLS ----------------------------------------------------------------------------------------------


def context(version=None):
    ctx = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ctx.check_hostname = False
    ctx.verify_mode = ssl.CERT_NONE
    if version:
        ctx.minimum_version = ctx.maximum_version = version
    return ctx


CONTEXT = context()


class Tls:
    """A TLS connection whose records are in reach."""

    def __init__(self, server, source=None, ctx=CONTEXT, timeout=10.0, rcvbuf=None, handshake=True):
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self.sock.settimeout(timeout)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if rcvbuf:
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, rcvbuf)
        if source:
            self.sock.bind((source, 0))
        self.sock.connect(server)
        self.rx, self.tx = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = ctx.wrap_bio(self.rx, self.tx)
        self.plain = b""
        if handshake:
            self.handshake()

    def handshake(self):
        while True:
            try:
                self.tls.do_handshake()
                return self.flush()
            except ssl.SSLWantReadError:
                self.flush()
                self.fill()

    def hello(self):
        """The ClientHello, not sent."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.tx.read()

    def flush(self):
        data = self.tx.read()
        if data:
            self.raw(data)

    def raw(self, data):
        """Bytes below TLS."""
        self.sock.sendall(data)

    def fill(self):
        try:
            data = self.sock.recv(65536)
        except (ConnectionError, OSError) as error:
            if isinstance(error, (socket.timeout, BlockingIOError)):
                raise
            raise Closed(False, "reset") from None
        if not data:
            raise Closed(False, "end without close_notify")
        self.rx.write(data)

    def records(self, data):
        """Sealed, not sent."""
        self.tls.write(data)
        return self.tx.read()

    def write(self, data):
        for at in range(0, len(data), 1 << 20):
            self.tls.write(data[at : at + (1 << 20)])
            self.flush()

    def read(self):
        """Some plaintext."""
        while True:
            try:
                data = self.tls.read(65536)
                if data:
                    return data
                raise Closed(True, "close_notify")
            except ssl.SSLWantReadError:
                self.flush()
                self.fill()
            except ssl.SSLZeroReturnError:
                raise Closed(True, "close_notify") from None
            except ssl.SSLError as error:
                raise Closed(False, "TLS: %s" % error.reason) from None

    def ends(self, timeout=5.0):
        """Reads to the end; how it ended, or None if it did not in time."""
        end = time.monotonic() + timeout
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return None
            self.sock.settimeout(left)
            try:
                self.read()
            except socket.timeout:
                return None
            except Closed as closed:
                return closed

    def take(self, count):
        while len(self.plain) < count:
            self.plain += self.read()
        data, self.plain = self.plain[:count], self.plain[count:]
        return data

    def response(self):
        """Status and body of an HTTP answer."""
        while b"\r\n\r\n" not in self.plain:
            self.plain += self.read()
        head, self.plain = self.plain.split(b"\r\n\r\n", 1)
        size = 0
        for line in head.split(b"\r\n")[1:]:
            name, value = line.split(b":", 1)
            if name.lower() == b"content-length":
                size = int(value)
        return int(head.split()[1]), self.take(size)

    def goodbye(self):
        """close_notify and FIN."""
        try:
            self.tls.unwrap()
        except (ssl.SSLError, ValueError):
            pass
        try:
            self.flush()
        except OSError:
            pass
        self.sock.close()

    def close(self):
        self.sock.close()


# ---- protocol -----------------------------------------------------------------------------------------


def proof(user, password, challenge):
    return sha0(sha0(password.encode() + user.upper().encode()) + challenge)


def client_fields():
    return {"client_str": "Raw Client", "client_ver": 444, "client_build": 9807}


class Conn(Tls):
    """A connection that speaks the protocol."""

    def hello_pack(self):
        """Signature and Hello; the challenge."""
        self.write(SIGNATURE)
        status, body = self.response()
        if status != 200:
            raise Refused(status)
        return unpack(body)["random"]

    def answer(self):
        """The PACK of an answer; Refused if it carries an error."""
        status, body = self.response()
        if status != 200:
            raise Refused(status)
        fields = unpack(body)
        if fields.get("error"):
            raise Refused(fields["error"])
        return fields

    def login(self, user, password, hub="PUBLIC", unique=None, challenge=None, **more):
        challenge = challenge or self.hello_pack()
        fields = {
            "method": "login", "hubname": hub, "username": user, "authtype": 1,
            "secure_password": proof(user, password, challenge), "protocol": 0, "max_connection": 1,
            "use_encrypt": 1, "use_compress": 0, "half_connection": 0,
            "unique_id": unique or os.urandom(20), **client_fields(), **more,
        }
        self.write(request(fields))
        self.welcome = self.answer()
        return self

    def join(self, key):
        self.hello_pack()
        self.write(request({"method": "additional_connect", "session_key": key, **client_fields()}))
        self.answer()
        return self

    def block(self, *frames):
        return struct.pack(">I", len(frames)) + b"".join(struct.pack(">I", len(f)) + f for f in frames)

    def send(self, *frames):
        self.write(self.block(*frames))

    def receive(self):
        """The next batch of frames; an empty one for a keep-alive. Nothing is taken before it is whole."""
        while True:
            found = self.batch()
            if found is not None:
                return found
            self.plain += self.read()

    def batch(self):
        data, at = self.plain, 0

        def word():
            nonlocal at
            at += 4
            return int.from_bytes(data[at - 4 : at], "big") if at <= len(data) else None

        count, found = word(), []
        padding = count == 0xFFFFFFFF
        for _ in range(1 if padding else count or 0):
            size = word()
            if size is None or at + size > len(data):
                return None
            found.append(data[at : at + size])
            at += size
        if count is None:
            return None
        self.plain = data[at:]
        return [] if padding else found

    def frames(self, wanted, timeout, match=lambda frame: True):
        """Up to `wanted` frames that match, within `timeout`."""
        found, end = [], time.monotonic() + timeout
        while len(found) < wanted and time.monotonic() < end:
            self.sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                found += [frame for frame in self.receive() if match(frame)]
            except socket.timeout:
                break
        self.sock.settimeout(10)
        return found


def mac(number):
    return b"\x02" + number.to_bytes(5, "big")


def frame(dst, src, size=60, fill=b"\0"):
    head = dst + src + b"\x88\xb5"
    return head + (fill * size)[: size - 14]


BROADCAST = b"\xff" * 6
