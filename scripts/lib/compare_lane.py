"""compare.py with the figures of `scripts/compare lane`: packets between two devices, with the NAT in between.

    compare_lane.py lane --figure F --pid PID --near NS --far NS --to ADDRESS --seconds S --tool LANE
        a stream of TCP (F = lane-tcp) or datagrams that fill frames of so many bytes (F = lane-BYTES) from the station in
        one namespace to that in the other, with what it cost the process (PID 0: there is none) and the machine
"""

import argparse
import json
import re
import subprocess
import sys
import time

import compare
from compare import Check

TITLES = {
    "lane-tcp": "TCP, 1 stream",
    "lane-64": "datagrams in 64-byte frames",
    "lane-1500": "datagrams in packets of 1,500 bytes",
}
SYSTEMS = ("xdp", "packet", "kernel")


def checks():
    for figure, rate, unit in (("lane-tcp", "mbit_per_second", "Mbit/s"), ("lane-64", "packets_per_second", "packets/s"),
                               ("lane-1500", "packets_per_second", "packets/s")):
        for system in SYSTEMS:
            yield Check(figure, rate, unit, system)
        own, whole, per = (("cpu_s_per_gb", "machine_s_per_gb", "s/GB") if figure == "lane-tcp" else
                           ("cpu_us_per_packet", "machine_us_per_packet", "us/packet"))
        yield Check(figure, own, per, "xdp", "packet")
        for other in ("packet", "kernel"):
            yield Check(figure, whole, per + ", machine", "xdp", other)
        if figure != "lane-tcp":
            for system in ("xdp", "packet"):
                yield Check(figure, "packets_per_cpu_s", "packets a CPU second", system)
                yield Check(figure, "bytes_per_cpu_s", "bytes a CPU second", system)


ABOUT = {
    "title": "A packet through NAT and lane",
    "question": "what does a packet cost between two devices with the NAT in between, by AF_XDP in copy mode, by packet "
    "sockets, and by the kernel's own forwarding?",
    "placing": "The lane's process on CPU 1; both stations and this script on CPU 0, where the kernel's forwarding runs, too.",
    "caveats": "veth has no zero-copy, which is what AF_XDP is for: see perf/lane.md. A virtual device's sender does the "
    "receiver's work: the XDP program, the copy into our memory and the far station's input run on the CPU of whoever "
    "sends, so the time of the whole machine, stations included, stands beside that of the process. With XDP on a veth its "
    "other end has no TSO, which costs station 1 as well. Figures of virtual machines differ by 15 % from run to run.",
}


def cpu(pid):
    return compare.cpu_seconds(pid) if pid else 0.0


def arrived(netns):
    said = subprocess.run(["ip", "netns", "exec", netns, "nft", "-j", "list", "counter", "ip", "sink", "arrived"],
                          capture_output=True, text=True, check=True).stdout
    return int(re.search(r'"packets": (\d+)', said)[1])


def stream(args):
    """iperf3 from the one station to the other: bytes and packets' worth."""
    server = subprocess.Popen(["ip", "netns", "exec", args.far, "iperf3", "-s", "-1"], stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        said = subprocess.run(["ip", "netns", "exec", args.near, "timeout", str(args.seconds + 15), "iperf3", "-c", args.to,
                               "-t", str(args.seconds), "-J"], capture_output=True, text=True, check=False).stdout
    finally:
        server.kill()
        server.wait()
    end = json.loads(said).get("end", {}).get("sum_received", {})
    if not end.get("bytes"):
        sys.exit(f"nothing came through: {said[-300:]}")
    return {"bytes": end["bytes"], "mbit_per_second": end["bits_per_second"] / 1e6}


def blast(args, frame):
    """Datagrams as fast as one CPU of the station sends them; those count that arrive."""
    # A frame on the wire ends with four bytes that nobody here has; a packet of 1,500 is a frame of 1,514.
    payload = frame - 4 - 14 - 28 if frame < 1500 else frame - 28
    before = arrived(args.far)
    said = subprocess.run(["ip", "netns", "exec", args.near, args.tool, "blast", f"{args.to}:9", str(payload),
                           str(args.seconds)], capture_output=True, text=True, check=True).stdout
    packets = arrived(args.far) - before
    if not packets:
        sys.exit("nothing came through")
    return {"sent": int(said), "packets": packets, "bytes": packets * (payload + 28), "packets_per_second": packets / args.seconds}


def lane(args):
    kind = args.figure.removeprefix("lane-")
    before, (busy, _) = cpu(args.pid), compare.machine()
    done = stream(args) if kind == "tcp" else blast(args, int(kind))
    own, whole = cpu(args.pid) - before, compare.machine()[0] - busy
    gb = done["bytes"] / compare.GB
    done |= {"mode": "lane", "seconds": args.seconds, "machine_s_per_gb": whole / gb}
    if args.pid:
        done |= {"server_cpu_seconds": own, "cpu_s_per_gb": own / gb}
    if packets := done.get("packets"):
        done["machine_us_per_packet"] = 1e6 * whole / packets
        if args.pid:
            done |= {"cpu_us_per_packet": 1e6 * own / packets, "packets_per_cpu_s": packets / own, "bytes_per_cpu_s": done["bytes"] / own}
    print(json.dumps(done))


def own_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode")
    for name in ("figure", "near", "far", "to", "tool"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--pid", type=int, required=True)
    parser.add_argument("--seconds", type=int, required=True)
    return parser.parse_args()


def main():
    if sys.argv[1:2] == ["lane"]:
        return lane(own_arguments()) or 0
    frames_page = compare.page
    compare.TITLES = TITLES
    compare.CHECKS = list(checks())
    compare.page = lambda *args: frames_page(*args, about=ABOUT)
    return compare.main()


if __name__ == "__main__":
    sys.exit(main())
