"""Rows of scripts/hostile: each is what somebody may do to the server, and what must come of it.

hostile.py ROW SERVER_ADDRESS PORT SERVER_PID: runs in a client's namespace with the source addresses 10.91.1.2 and
10.91.1.10 to 10.91.1.249; prints what it saw, fails with the reason. HUBLANE and CONTROL name program and socket.
"""
import json
import os
import selectors
import signal
import socket
import ssl
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib

import rawclient
from rawclient import BROADCAST, INT, STR, Closed, Conn, Refused, Tls, frame, mac, pack, post, request

ROW, SERVER, PID = sys.argv[1], (sys.argv[2], int(sys.argv[3])), int(sys.argv[4])
SEEN = []


class Fail(Exception):
    pass


def check(good, what):
    if not good:
        raise Fail(what)


def seen(text, *values):
    SEEN.append(text % values if values else text)


def source(number):
    return "10.91.1.%d" % (10 + number % 240)


# ---- what the server tells ----------------------------------------------------------------------------


def ask(*words):
    told = subprocess.run(
        [os.environ["HUBLANE"], *words, "--control-socket", os.environ["CONTROL"]], capture_output=True, timeout=15
    )
    check(told.returncode == 0, "hublane %s: %s" % (" ".join(words), told.stderr.decode()[-200:]))
    return told.stdout


def status():
    return json.loads(ask("status", "--json"))


def sessions():
    return json.loads(ask("session", "list", "--json"))


def drops(reason):
    return status()["drops"][reason]


def closes(reason):
    return status()["closes"][reason]


def counter(name):
    return status()["counters"][name]


def descriptors():
    return len(os.listdir("/proc/%d/fd" % PID))


def memory_kib():
    for line in open("/proc/%d/status" % PID):
        if line.startswith("VmRSS"):
            return int(line.split()[1])


def held():
    """What may leak, by name."""
    now = status()
    return {
        "sessions": sum(hub["sessions"] for hub in now["hubs"]),
        "ports": sum(worker["ports"] for worker in now["workers"]),
        "connections": sum(worker["conns"] for worker in now["workers"]),
        "descriptors": descriptors(),
    }


def settle(before, seconds):
    """Until the server holds no more than before."""
    end = time.monotonic() + seconds
    while True:
        now = held()
        if all(now[key] <= before[key] for key in before):
            return now
        check(time.monotonic() < end, "still held after %d s: %s; before: %s" % (seconds, now, before))
        time.sleep(0.2)


def within(seconds, what, holds):
    end = time.monotonic() + seconds
    while not holds():
        check(time.monotonic() < end, what)
        time.sleep(0.05)


# ---- members ------------------------------------------------------------------------------------------


def connect(number=0, **how):
    return Conn(SERVER, source(number), **how)


def member(number, hub="PUBLIC", how=None, **fields):
    """User uN (1 to 4) of a hub, logged in."""
    user = number % 4 + 1
    return connect(number, **(how or {})).login("u%d" % user, "secret-%d" % user, hub, **fields)


def settled(*members):
    """Each has said who it is and heard of the others."""
    for number, one in enumerate(members):
        one.send(frame(BROADCAST, mac(number + 1)))
    for one in members:
        one.frames(len(members) - 1, 1)


def login_ms():
    """A legitimate member comes and goes."""
    start = time.monotonic()
    one = member(239 - int(start * 10) % 20)
    taken = (time.monotonic() - start) * 1000
    one.goodbye()
    return taken


def hublane_lives():
    check(login_ms() < 1000, "a login takes more than a second afterwards")


def ended(one, clean=True, timeout=5.0):
    how = one.ends(timeout)
    check(how is not None, "the connection is still open after %.1f s" % timeout)
    check(how.clean or not clean, "the connection ended without close_notify: %s" % how)
    return how


# ---- before the login ---------------------------------------------------------------------------------


def drip(conns, seconds):
    """A byte a second on each (socket, bytes); when each was closed."""
    start, closed, at = time.monotonic(), {}, 0
    poll = selectors.DefaultSelector()
    for sock, _ in conns:
        sock.setblocking(False)
        poll.register(sock, selectors.EVENT_READ)
    while len(closed) < len(conns) and time.monotonic() - start < seconds:
        if time.monotonic() - start >= at:
            for sock, text in conns:
                try:
                    if sock not in closed:
                        sock.send(text(at))
                except OSError:
                    pass
            at += 1
        for key, _ in poll.select(0.1):
            try:
                if key.fileobj.recv(65536):
                    continue
            except OSError:
                pass
            closed[key.fileobj] = time.monotonic() - start
            poll.unregister(key.fileobj)
    for sock, _ in conns:
        sock.close()
    return closed


def slowest_login(stop):
    worst = []

    def run():
        while not stop.is_set():
            try:
                worst.append(login_ms())
            except Exception as error:
                worst.append(1e9)
                print(error, file=sys.stderr)
            stop.wait(1)

    thread = threading.Thread(target=run)
    thread.start()
    return thread, worst


def slow_ones(conns, seconds, limit):
    stop = threading.Event()
    thread, worst = slowest_login(stop)
    closed = drip(conns, seconds)
    stop.set()
    thread.join()
    check(len(closed) == len(conns), "%d of %d are still open after %d s" % (len(conns) - len(closed), len(conns), seconds))
    last = max(closed.values())
    check(last <= limit, "the last one was closed after %.1f s" % last)
    first = min(closed.values())
    check(first > limit - 5, "the first one was closed after %.1f s already" % first)
    hublane_lives()
    check(max(worst) < 500, "a legitimate login took %.0f ms" % max(worst))
    seen("all %d closed, last after %.1f s; %d logins meanwhile, slowest %.0f ms", len(closed), last, len(worst), max(worst))


def row_slowloris_tls():
    conns = []
    for number in range(200):
        tls = connect(number % 4, handshake=False)
        hello = tls.hello()
        conns.append((tls.sock, lambda at, hello=hello: hello[at : at + 1]))
    slow_ones(conns, 17, 16)


def row_slowloris_http():
    """Behind the handshake; each byte is a record of its own."""
    conns, text = [], b"GET / HTTP/1.1\r\nX-Header: " + b"a" * 100
    for number in range(200):
        tls = connect(number % 4)
        conns.append((tls.sock, lambda at, tls=tls: tls.records(text[at : at + 1])))
    slow_ones(conns, 33, 31.5)


def row_half_open_tls():
    conns = []
    for number in range(200):
        tls = connect(number % 4, handshake=False)
        tls.raw(tls.hello())
        conns.append((tls.sock, lambda at: b""))
    slow_ones(conns, 17, 16)


def row_garbage():
    """Instead of a ClientHello."""
    texts = {
        "HTTP": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "SSLv2": bytes.fromhex("802e010002001500000010") + os.urandom(40),
        "noise": b"\xff" + os.urandom(5000),
        "huge record": b"\x16\x03\x01\xff\xff" + bytes(100),
        "empty record": b"\x16\x03\x01\x00\x00" * 50,
        "application data": b"\x17\x03\x03\x00\x20" + bytes(32),
        "hello of 16 MiB": b"\x16\x03\x01\x40\x00\x01\xff\xff\xff" + bytes(16380),
        "early end": b"\x16\x03",
    }
    for name, text in texts.items():
        tls = connect(1, handshake=False)
        tls.sock.settimeout(3)
        try:
            tls.raw(text)
            tls.sock.shutdown(socket.SHUT_WR)
            while tls.sock.recv(65536):
                pass
        except TimeoutError:
            raise Fail(name + ": still open") from None
        except OSError:
            pass
        tls.close()
    seen("%d kinds, each closed", len(texts))
    hublane_lives()


def http(bytes_, number=2, close_after=True):
    one = connect(number)
    one.write(bytes_)
    answer = one.response()
    if close_after:
        ended(one)
    one.close()
    return answer[0]


def row_http():
    big = b"A" * 5000
    table = [
        ("garbage", b"\x00\x01\x02 nonsense\r\n\r\n", 400, True),
        ("long line", b"GET / HTTP/1.1\r\nX: " + big + b"\r\n\r\n", 431, True),
        ("long target", b"GET /" + big + b" HTTP/1.1\r\n\r\n", 431, True),
        ("many headers", b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 65 + b"\r\n", 431, True),
        ("long head", b"GET / HTTP/1.1\r\n" + (b"X: " + b"y" * 1000 + b"\r\n") * 20 + b"\r\n", 431, True),
        ("body above 64 KiB", b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: 65537\r\n\r\n", 413, True),
        ("length overflows", b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: 18446744073709551617\r\n\r\n", 413, True),
        ("length negative", b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400, True),
        ("two lengths", b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400, True),
        ("chunked", b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", 501, True),
        ("HTTP/2.0", b"GET / HTTP/2.0\r\n\r\n", 505, True),
        ("preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, True),
        ("wrong path", b"GET /etc/passwd HTTP/1.1\r\n\r\n", 404, False),
        ("dots", b"GET /../../etc/passwd HTTP/1.1\r\n\r\n", 404, False),
        ("wrong method", b"BREW / HTTP/1.1\r\n\r\n", 501, False),
        ("GET of a POST", b"GET /vpnsvc/vpn.cgi HTTP/1.1\r\n\r\n", 405, False),
        ("POST of the root", b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, False),
        ("short signature", post("/vpnsvc/connect.cgi", b"VPN"), 403, False),
        ("long signature", post("/vpnsvc/connect.cgi", bytes(4097)), 403, False),
    ]
    for name, text, wanted, closes_ in table:
        got = http(text, close_after=closes_)
        check(got == wanted, "%s: status %d, not %d" % (name, got, wanted))
    one, answers = connect(2), 0
    one.write(b"GET / HTTP/1.1\r\n\r\n" * 25)
    try:
        while True:
            check(one.response()[0] == 200, "root page")
            answers += 1
    except Closed as closed:
        check(closed.clean, "after too many requests: %s" % closed)
    check(answers == 19, "%d of 25 requests were answered" % answers)
    noops = connect(2)
    noops.hello_pack()
    noops.write(request({"noop": 1, "error": 0}) * 40)
    try:
        for answers in range(41):
            noops.answer()
    except Refused as refused:
        check(refused.code == 4, "NOOPs end with %d" % refused.code)
    check(answers == 30, "%d NOOPs were answered" % answers)
    seen("%d requests with the status they deserve; 19 requests and 30 NOOPs on a connection", len(table))


def refusal(body, number=3, path="/vpnsvc/vpn.cgi"):
    """Code of the refusal of a body behind the signature; an HTTP status as negative number; None if let in."""
    one = connect(number)
    one.hello_pack()
    try:
        one.write(post(path, body))
        state, answer = one.response()
        code = rawclient.unpack(answer).get("error") if state == 200 else -state
    except Closed as closed:
        raise Fail("closed instead of an answer: %s" % closed) from None
    if code:
        ended(one)
    one.close()
    return code


def row_pack_bombs():
    words = lambda *numbers: struct.pack(">%dI" % len(numbers), *numbers)
    login = [("method", "login"), ("hubname", "PUBLIC"), ("username", "u1"), ("authtype", 0)]
    many = [("e%d" % n, 1) for n in range(253)]
    table = {
        "empty": b"", "cut count": b"\0\0", "no elements": words(0),
        "4 G elements": words(0xFFFFFFFF) + bytes(100),
        "257 elements": pack(login + many),
        "4 G values": words(1) + words(2) + b"a" + words(INT, 0xFFFFFFFF),
        "no values": words(1) + words(2) + b"a" + words(INT, 0),
        "name past the end": words(1) + words(0xFFFFFFFF) + b"a",
        "name of no length": words(1) + words(0) + words(INT, 1, 1),
        "value past the end": words(1) + words(2) + b"a" + words(STR, 1, 0xFFFFFFF0) + b"x",
        "value of 4 GiB": words(1) + words(2) + b"a" + words(STR, 1, 0xFFFFFFFF),
        "unknown type": words(1) + words(2) + b"a" + words(77, 1, 1),
        "name twice": pack(login + [("METHOD", "login")]),
        "method is a number": pack({"method": 1}),
        "method is many": pack([("method", (STR, [b"\0\0\0\5login"] * 200))] + login[1:]),
        "noise": os.urandom(4000),
    }
    for name, body in table.items():
        code = refusal(body)
        wanted = 7 if name == "method is many" else 4
        check(code == wanted, "%s: %s, not %d" % (name, code, wanted))
    whole = pack(login + [("fill", bytes(32768)), ("more", bytes(32600))])
    code = refusal(whole + bytes(65536 - len(whole)))
    check(code == 7, "64 KiB: %s" % code)
    one = connect(3)
    one.hello_pack()
    one.write(b"POST /vpnsvc/vpn.cgi HTTP/1.1\r\nContent-Length: 65537\r\n\r\n")
    check(one.response()[0] == 413, "64 KiB + 1")
    seen("%d bombs refused with 4; 64 KiB is read, a byte more is 413", len(table))
    hublane_lives()


def row_login_fields():
    base = {"method": "login", "hubname": "PUBLIC", "username": "nobody-a", "authtype": 1, "secure_password": bytes(20)}
    table = [
        (7, {"authtype": 0}), (4, {"authtype": 3, "cert": b"x"}), (7, {"authtype": 99, "ticket": bytes(20)}),
        (7, {"authtype": 96}), (7, {"authtype": 0xFFFFFFFF}),
        (4, {"authtype": None}), (4, {"authtype": "1"}), (4, {"hubname": None}), (4, {"username": None}),
        (4, {"method": None}), (4, {"method": "steal"}), (4, {"secure_password": None}), (4, {"secure_password": bytes(19)}),
        (4, {"secure_password": bytes(21)}), (4, {"authtype": 2}), (4, {"authtype": 2, "plain_password": "x" * 256}),
        (9, {"authtype": 2, "plain_password": "x" * 255, "username": "nobody-b"}),
        (9, {"authtype": 3, "cert": b"x", "sign": b"y", "username": "nobody-e"}),
        (9, {"authtype": 3, "cert": bytes(32000), "sign": bytes(512), "username": "nobody-f"}),
        (9, {"authtype": 3, "cert": b"\x30\x83\xff\xff\xff" * 6000, "sign": b"", "username": "nobody-g"}),
        (8, {"hubname": "NOWHERE"}), (8, {"hubname": ""}), (8, {"hubname": "x" * 255}), (8, {"hubname": "x" * 256}),
        (8, {"hubname": "a\nb"}), (8, {"hubname": "PUBLIC\0x"}), (8, {"hubname": "\u202ePUBLIC"}),
        (9, {"username": ""}), (9, {"username": "x" * 255}), (9, {"username": "x" * 256}), (9, {"username": "x" * 30000}),
        (9, {"username": "a\r\nlogin accepted"}), (9, {"username": "\x1b[2J"}), (9, {"username": "u1\0"}), (9, {"username": "*"}),
        (9, {"client_str": "\x1b]0;x\7" * 1000, "max_connection": 0xFFFFFFFF, "username": "nobody-c"}),
        (9, {"unique_id": "text", "ClientPort": "text", "username": "nobody-d"}),
    ]
    for number, (wanted, changes) in enumerate(table):
        fields = {key: value for key, value in {**base, **changes}.items() if value is not None}
        code = refusal(pack(fields), number)
        check(code == wanted, "%.60s: %s, not %d" % (changes, code, wanted))
    seen("%d requests, codes 4, 7, 8 and 9 as they should be", len(table))
    hublane_lives()


def row_wrong_user():
    """100 wrong passwords against 100 unknown users, 4 of each name and source, so that no penalty interferes."""
    times = {"wrong password": [], "unknown user": []}
    for number in range(200):
        kind, user = ("wrong password", "h%d") if number % 2 else ("unknown user", "n%d")
        one = connect(20 + number // 4)
        challenge = one.hello_pack()
        body = request({"method": "login", "hubname": "PUBLIC", "username": user % (number // 8), "authtype": 1,
                        "secure_password": os.urandom(20), **rawclient.client_fields()})
        start = time.perf_counter()
        one.write(body)
        state, answer = one.response()
        times[kind].append((time.perf_counter() - start) * 1e6)
        code = rawclient.unpack(answer).get("error")
        check(code == 9, "%s: code %s" % (kind, code))
        ended(one)
        one.close()
    refused = status()["counters"]
    check(refused["login_refused_penalty"] == 0, "penalties interfered")
    # The slowest tenth is the scheduler's.
    cut = {kind: sorted(values)[: len(values) * 9 // 10] for kind, values in times.items()}
    a, b = cut.values()
    difference = statistics.mean(a) - statistics.mean(b)
    error = (statistics.variance(a) / len(a) + statistics.variance(b) / len(b)) ** 0.5
    check(abs(difference) < 4 * error, "means differ by %.1f us, standard error %.1f us" % (difference, error))
    seen("code 9 for both; mean %.0f and %.0f us, standard error %.0f us", statistics.mean(a), statistics.mean(b), error)


def row_guessing():
    """The sixth guess at a name is not looked at, nor told apart."""
    codes = []
    for number in range(8):
        one = connect(200 + number)
        try:
            one.login("guessed", "wrong")
        except Refused as refused:
            codes.append(refused.code)
        one.close()
    check(codes == [9] * 8, "codes %s" % codes)
    check(counter("login_refused_penalty") >= 3, "no penalty")
    seen("8 guesses, %d not looked at", counter("login_refused_penalty"))


# ---- records and blocks of a member -------------------------------------------------------------------


def spoil(name, spoiler, reason, version=None):
    """A session of two connections loses the one whose bytes are spoilt, and nothing else."""
    ctx = rawclient.context(version)
    one = member(0, max_connection=4, how={"ctx": ctx})
    other = connect(0, ctx=ctx).join(one.welcome["session_key"])
    witness = member(1)
    settled(one, witness)
    before = closes(reason)
    spoiler(other)
    how = ended(other)
    check(closes(reason) == before + 1, "%s: not counted as %s: %s" % (name, reason, status()["closes"]))
    one.send(frame(mac(2), mac(1), fill=b"x"))
    check(witness.frames(1, 2, lambda f: f[14:15] == b"x"), "%s: the session has lost its other connection" % name)
    for conn in (one, other, witness):
        conn.goodbye()
    return how


def row_records():
    def bad_tag(conn):
        record = bytearray(conn.records(conn.block(frame(BROADCAST, mac(1)))))
        record[-1] ^= 1
        conn.raw(bytes(record))

    def replay(conn):
        record = conn.records(conn.block(frame(BROADCAST, mac(1))))
        conn.raw(record + record)

    raw = lambda bytes_: lambda conn: conn.raw(bytes_)
    both = {
        "bad tag": (bad_tag, "record_bad_tag"), "replay": (replay, "record_bad_tag"),
        "oversized": (raw(b"\x17\x03\x03\x48\x01"), "record_malformed"),
        "64 KiB": (raw(b"\x17\x03\x03\xff\xff"), "record_malformed"),
        "unknown type": (raw(b"\x63\x03\x03\x00\x20" + bytes(32)), "record_malformed"),
        "no length": (raw(b"\x17\x03\x03\x00\x00"), "record_malformed"),
        "noise": (raw(b"\xaa" * 5000), "record_malformed"),
    }
    only13 = {
        "plain alert": (raw(b"\x15\x03\x03\x00\x02\x02\x28"), "record_unexpected"),
        "change cipher specs": (raw(b"\x14\x03\x03\x00\x01\x01" * 40), "record_flood"),
    }
    count = 0
    for version, table in ((ssl.TLSVersion.TLSv1_3, {**both, **only13}), (ssl.TLSVersion.TLSv1_2, both)):
        for name, (spoiler, reason) in table.items():
            spoil("%s, %s" % (name, version.name), spoiler, reason, version)
            count += 1
    seen("%d kinds: that connection alone ends, by close_notify, counted", count)


def row_blocks():
    word = lambda number: struct.pack(">I", number)
    fatal = {
        "block of 3201": (word(1) + word(3201), "block_too_long"),
        "block of 4 GiB": (word(1) + word(0xFFFFFFFF), "block_too_long"),
        "keep-alive of 513": (word(0xFFFFFFFF) + word(513), "keep_alive_too_long"),
    }
    for name, (text, reason) in fatal.items():
        spoil(name, lambda conn, text=text: conn.write(text), reason)

    def truncated(conn):
        conn.write(word(3) + word(60) + bytes(20))
        conn.sock.shutdown(socket.SHUT_WR)

    spoil("truncated", truncated, "peer_eof")
    a, b = member(0), member(1)
    settled(a, b)
    for name, size, reason in (("long", 1601, "frame_too_long"), ("long", 3200, "frame_too_long"), ("short", 13, "frame_too_short"),
                               ("short", 1, "frame_too_short")):
        before = drops(reason)
        a.send(frame(mac(2), mac(1), max(size, 14))[:size])
        within(2, "a frame of %d is not counted as %s" % (size, reason), lambda: drops(reason) == before + 1)
    a.write(word(0) * 1000 + word(5) + word(0) * 5 + word(0xFFFFFFFF) + word(512) + bytes(512))
    a.send(frame(mac(2), mac(1), 1600, b"y"))
    check(len(b.frames(1, 2, lambda f: f[14:15] == b"y")) == 1, "a frame of 1600 bytes behind empty blocks is lost")
    seen("%d faults end a connection alone; frames of 1, 13, 1601 and 3200 bytes dropped and counted", len(fatal) + 1)


def row_inflate_bomb():
    a, b = member(0, use_compress=1), member(1)
    check(a.welcome["use_compress"] == 1, "compression is off")
    a.send(zlib.compress(frame(BROADCAST, mac(1))))
    b.send(frame(BROADCAST, mac(2)))
    b.frames(1, 1)
    bombs = [zlib.compress(bytes(1 << 20)), zlib.compress(bytes(1601)), b"\x78\x9c" + bytes(100), os.urandom(1500), b"\x78"]
    before, memory = drops("frame_inflate"), memory_kib()
    for _ in range(200):
        a.send(*bombs)
    within(5, "not all counted: %d" % (drops("frame_inflate") - before), lambda: drops("frame_inflate") == before + 200 * len(bombs))
    a.send(zlib.compress(frame(mac(2), mac(1), 1600, b"z")))
    check(len(b.frames(1, 2, lambda f: f[14:15] == b"z")) == 1, "the session does not go on")
    check(memory_kib() - memory < 4096, "memory grew by %d KiB" % (memory_kib() - memory))
    seen("%d bombs dropped and counted; the session goes on", 200 * len(bombs))


# ---- the hub ------------------------------------------------------------------------------------------


def row_mac_flood():
    """A million addresses behind one session, while two others talk."""
    flood, a, b = member(0), member(1), member(2)
    settled(flood, a, b)
    lost, delays, number, started = [], [], 0, time.monotonic()
    # A process of its own: Python's threads would wait for each other.
    child = os.fork()
    if child == 0:
        for at in range(0, 1_000_000, 500):
            flood.send(*[frame(mac(2), mac(1000 + at + n), 14) for n in range(500)])
        os._exit(0)
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        number += 1
        start = time.monotonic()
        a.send(frame(mac(3), mac(2), 100, struct.pack(">I", number)))
        if b.frames(1, 2, lambda f, n=number: f[14:18] == struct.pack(">I", n)):
            delays.append((time.monotonic() - start) * 1000)
        else:
            lost.append(number)
        time.sleep(0.002)
    taken = time.monotonic() - started
    within(10, "the flood was not read", lambda: counter("frames_in") >= 1_000_000)
    rows = {row["user"]: row for row in sessions()}
    macs = rows["u1"]["macs"]
    check(macs <= 64, "%d addresses learned" % macs)
    check(rows["u2"]["macs"] >= 1 and rows["u3"]["macs"] >= 1, "the others lost theirs")
    check(statistics.median(delays) < 60, "frames of others took %.0f ms" % statistics.median(delays))
    check(not lost, "%d of %d frames of others were lost" % (len(lost), len(lost) + len(delays)))
    seen("%d addresses kept of 1,000,000 in %.1f s; %d frames between others, none lost, median %.1f ms",
         macs, taken, len(delays), statistics.median(delays))


def row_mac_theft():
    owner, thief, friend = (member(number, "GUARDED") for number in range(3))
    owner.send(frame(BROADCAST, mac(1)))
    friend.send(frame(BROADCAST, mac(3)))
    owner.frames(1, 1)
    before = drops("hub_mac_held")
    for number in range(50):
        thief.send(frame(BROADCAST, mac(1), fill=b"thief"))
        friend.send(frame(mac(1), mac(3), fill=b"f%03d" % number))
    got = owner.frames(50, 3, lambda f: f[14:15] == b"f")
    check(len(got) == 50, "the owner got %d of 50 frames" % len(got))
    check(not thief.frames(1, 0.3, lambda f: f[14:15] == b"f"), "the thief got a frame")
    check(drops("hub_mac_held") == before + 50, "%d thefts counted" % (drops("hub_mac_held") - before))
    seen("50 thefts held and counted; the owner got all frames")


def row_slow_reader():
    """Members that never read, enough to fill every queue, and one whose path takes a burst only slowly."""
    a, good = member(0), member(1, how={"rcvbuf": 16384})
    deaf = [member(2, how={"rcvbuf": 4096}) for _ in range(150)]
    settled(a, good)
    for number, one in enumerate(deaf):
        one.send(frame(BROADCAST, mac(100 + number)))
    good.frames(150, 2)
    burst = 0
    for number in [*range(len(deaf))] * 60:
        a.send(*[frame(mac(100 + number), mac(1), 1500)] * 25)
        burst += 1
        if burst % 16 == 0:
            time.sleep(0.002)  # for the other worker: what does not fit between workers is not lost to the deaf
    full, empty = drops("egress_queue_full"), drops("egress_pool_empty")
    check(empty > 0, "nothing was dropped for those who do not read")
    for _ in range(10):
        a.send(*[frame(mac(2), mac(1), 1400, b"good")] * 150)
        got = len(good.frames(150, 3, lambda f: f[14:18] == b"good"))
        check(got == 150, "the good reader got %d of a burst of 150; drops: %s" % (got, {
            reason: count for reason, count in status()["drops"].items() if count}))
    seen("150 deaf members; the other got 10 bursts of 150 frames whole; %d dropped for the deaf", full + empty)


# ---- connections and sessions -------------------------------------------------------------------------


def row_connects_at_once():
    before, conns = counter("connections_turned_away"), []
    for _ in range(300):
        sock = socket.socket()
        sock.bind((source(9), 0))
        sock.setblocking(False)
        sock.connect_ex(SERVER)
        conns.append(sock)
    within(3, "only %d of 44 above the cap of 256 were turned away" % (counter("connections_turned_away") - before),
           lambda: counter("connections_turned_away") - before >= 44)
    turned = counter("connections_turned_away") - before
    check(turned == 44, "%d turned away" % turned)
    taken = login_ms()
    check(taken < 500, "a login from elsewhere takes %.0f ms" % taken)
    for sock in conns:
        sock.close()
    seen("44 of 300 turned away; a login from elsewhere %.0f ms", taken)


def row_join():
    for key in (os.urandom(20), bytes(20)):
        try:
            connect(1).join(key)
            raise Fail("a made-up key was taken")
        except Refused as refused:
            check(refused.code == 13, "made-up key: %d" % refused.code)
    check(refusal(pack({"method": "additional_connect", "session_key": bytes(19)})) == 4, "a short key")
    check(refusal(pack({"method": "additional_connect"})) == 4, "no key")
    # Who asks the moment he knows the key, while the session is still on its way to its worker.
    for number in range(100):
        eager = connect(1)
        eager.hello_pack()
        one = member(0, max_connection=2, unique=b"eager-eager-eager-ea")
        eager.write(request({"method": "additional_connect", "session_key": one.welcome["session_key"]}))
        eager.answer()
        eager.receive()
        eager.close()
        one.close()
    ask("session", "kick", sessions()[0]["name"])
    one, joined, codes = member(0, max_connection=4), [], []
    for _ in range(30):
        try:
            joined.append(connect(1).join(one.welcome["session_key"]))
        except Refused as refused:
            codes.append(refused.code)
    check(len(joined) == 4 and codes == [15] * 26, "%d joined beside the first, then %s" % (len(joined), codes))
    joined[0].goodbye()
    within(3, "the place of a closed connection is not free", lambda: sessions()[0]["connections"] < 5)
    connect(1).join(one.welcome["session_key"])
    name = sessions()[0]["name"]
    ask("session", "kick", name)
    for conn in [one, *joined[1:]]:
        ended(conn)
    try:
        connect(1).join(one.welcome["session_key"])
        raise Fail("the key of a kicked session was taken")
    except Refused as refused:
        check(refused.code == 13, "kicked: %d" % refused.code)
    seen("made-up and dead keys 13; 1 + 4 connections for 4 asked, then 15; kick ends all by close_notify")


def row_takeover():
    """The same installation logs in 200 times and never says goodbye; then 100 times at the same moment."""
    before, previous, unique = held(), None, b"take-over-take-over-"
    for number in range(200):
        one = member(0, unique=unique)
        one.send(frame(BROADCAST, mac(1)), frame(BROADCAST, mac(1)))
        if previous:
            ended(previous)
            previous.close()
        previous = one
    rows = sessions()
    check(len(rows) == 1 and rows[0]["macs"] == 1, "%d sessions" % len(rows))
    table = json.loads(ask("mac", "list", "--json"))
    check(len(table) == 1 and table[0]["session"] == rows[0]["name"], "table of addresses: %s" % table)
    ready = [connect(number) for number in range(100)]
    challenges = [one.hello_pack() for one in ready]

    def go(one, challenge):
        one.login("u1", "secret-1", unique=unique, challenge=challenge)

    threads = [threading.Thread(target=go, args=pair) for pair in zip(ready, challenges)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    within(3, "%d sessions of one installation" % len(sessions()), lambda: len(sessions()) == 1)
    left = [one for one in ready if one.ends(0.2) is None]
    check(len(left) == 1, "%d connections are alive" % len(left))
    ask("session", "kick", sessions()[0]["name"])
    ended(left[0])
    for one in ready:
        one.close()
    previous.close()
    seen("200 one after another, 100 at once: one session, one address each time; then %s", settle(before, 5))


def row_churn():
    before, unique, sizes = None, b"login-and-out-again-", []
    for number in range(501):
        one = member(0, unique=unique)
        one.send(frame(BROADCAST, mac(1)))
        one.goodbye()
        if number % 250 == 0:
            time.sleep(1.5)
            sizes.append(memory_kib())
            before = before or held()
    after = settle(before, 5)
    check(sizes[2] - sizes[1] < 1024, "memory: %s KiB after 0, 250, 500" % sizes)
    seen("500 logins; %s; RSS %s KiB after 0, 250, 500", after, ", ".join(map(str, sizes)))


def row_few_descriptors():
    """The server may have 256 descriptors."""
    known = member(0)
    idle = []
    for number in range(400):
        sock = socket.socket()
        sock.bind((source(number % 3 + 1), 0))
        sock.setblocking(False)
        sock.connect_ex(SERVER)
        idle.append(sock)
    time.sleep(1)
    other = None
    full = descriptors()
    known.send(frame(BROADCAST, mac(1)))
    check(known.ends(1) is None, "a session was lost")
    for sock in idle:
        sock.close()
    within(5, "no login after the wave", lambda: login_works())
    settle_to = descriptors()
    check(settle_to < 100, "%d descriptors afterwards" % settle_to)
    seen("%d descriptors in use under 400 silent connections, %d afterwards; sessions live, logins work", full, settle_to)


def login_works():
    try:
        return login_ms() < 5000
    except (Closed, OSError, Refused):
        return False


def row_sigterm():
    """60 members under traffic and logins without end; then SIGTERM."""
    conns, lock, stop = [], threading.Lock(), threading.Event()
    members = [member(number, max_connection=2) for number in range(60)]
    joined = [connect(number).join(one.welcome["session_key"]) for number, one in enumerate(members[:20])]
    settled(*members[:4])
    unclean, clean = [], []
    # Logins that arrive together with the signal.
    ready = [connect(number) for number in range(200)]
    asks = []
    for number, one in enumerate(ready):
        user = number % 4 + 1
        asks.append(request({
            "method": "login", "hubname": "PUBLIC", "username": "u%d" % user, "authtype": 1, "unique_id": os.urandom(20),
            "secure_password": rawclient.proof("u%d" % user, "secret-%d" % user, one.hello_pack()),
        }))

    def log_in(number):
        while not stop.is_set():
            try:
                one = connect(number)
            except (Closed, OSError):
                continue  # not a TLS connection yet
            try:
                one.login("u1", "secret-1")
                with lock:
                    conns.append(one)
                continue
            except (Closed, OSError) as error:
                # Written to after the server had said goodbye: what it said is still to be read.
                how = error if isinstance(error, Closed) and error.clean else one.ends(2)
                (clean.append(1) if how and how.clean else unclean.append("in login: %s" % (how or error)))
            except Refused:
                pass
            one.close()

    def chatter():
        while not stop.is_set():
            for number, one in enumerate(members[:4]):
                try:
                    one.send(*[frame(mac((number + 1) % 4 + 1), mac(number + 1), 1400)] * 30)
                except (Closed, OSError, ssl.SSLError):
                    return

    threads = [threading.Thread(target=log_in, args=(number,)) for number in range(6)]
    threads.append(threading.Thread(target=chatter))
    for thread in threads:
        thread.start()
    time.sleep(1)
    for number, (one, ask_) in enumerate(zip(ready, asks)):
        try:
            one.write(ask_)
        except (Closed, OSError):
            pass
        if number == 50:
            start = time.monotonic()
            os.kill(PID, signal.SIGTERM)
    end = start + 6

    def gone():
        try:
            return open("/proc/%d/stat" % PID).read().split()[2] == "Z"
        except OSError:
            return True

    ends = []
    reader = threading.Thread(target=lambda: ends.extend((one, one.ends(5)) for one in members + joined + ready))
    reader.start()
    while not gone():
        check(time.monotonic() < end, "the server still runs after 6 s")
        time.sleep(0.01)
    taken = time.monotonic() - start
    stop.set()
    for thread in [*threads, reader]:
        thread.join()
    ends += [(one, one.ends(3)) for one in conns]
    groups = [("member", members), ("joined", joined), ("logging in", ready), ("new", conns)]
    name_of = {id(one): name for name, group in groups for one in group}
    bad = ["%s: %s" % (name_of[id(one)], how) for one, how in ends if how is None or not how.clean]
    check(not bad and not unclean, "%d of %d members and %d logins without close_notify: %s"
          % (len(bad), len(ends), len(unclean), sorted({*bad, *unclean})[:4]))
    check(taken < 3, "it took %.1f s" % taken)
    seen("gone after %.1f s; close_notify for %d members and %d logins in progress", taken, len(ends), len(clean))


if __name__ == "__main__":
    try:
        globals()["row_" + ROW]()
        print("; ".join(SEEN))
    except Fail as fail:
        print(fail)
        sys.exit(1)
    except (Closed, Refused, OSError) as error:
        import traceback

        traceback.print_exc()
        print("%s: %s" % (type(error).__name__, error))
        sys.exit(1)
