"""Random bytes over one TCP connection, and their SHA-256 at both ends.

  sums.py get ADDRESS        waits at port 6000 for one peer; prints "listening", then "sum HEX"
  sums.py send ADDRESS MIB   prints HEX once all of it was taken by the other end
"""

import hashlib
import os
import socket
import sys

PORT = 6000
MIB = 1 << 20


def get(address):
    server = socket.create_server((address, PORT), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
    print("listening")
    peer, _ = server.accept()
    digest = hashlib.sha256()
    while chunk := peer.recv(MIB):
        digest.update(chunk)
    print("sum", digest.hexdigest())


def send(address, count):
    peer = socket.create_connection((address, PORT), 10)
    digest = hashlib.sha256()
    for _ in range(int(count)):
        chunk = os.urandom(MIB)
        digest.update(chunk)
        peer.sendall(chunk)
    peer.shutdown(socket.SHUT_WR)
    # It closes when it has read everything.
    peer.recv(1)
    print(digest.hexdigest())


{"get": get, "send": send}[sys.argv[1]](*sys.argv[2:])
