"""compare.py with the figures of `scripts/compare tunnel`: a download through the tunnel beside one without.

What a run is and how it is reported stands in compare.py; here stand the measurements, the figures with their targets, and
the words of the page. Options are those of compare.py, and:

    compare_tunnel.py download|dead --seconds S --ping S --settle S --near NS --far NS --to ADDRESS
        --near-pid PID --far-pid PID --server-pid PID [--tls TEXT] [--dead S] -- [LINK...]
        TCP from the namespace --far to --near while the program LINK is the link in between; download: how much for so many
        seconds, then also how long pings take beside it; dead: when pings and TCP are back after the link was dead for a
        while. PID 0: there is no such program.
"""

import argparse
import contextlib
import json
import re
import signal
import statistics
import subprocess
import sys
import time

import compare
from compare import Check, short, shown, spread

CELLS = {
    "local": "no link, member to member",
    "link100": "100 Mbit/s",
    "delay20": "100 Mbit/s, 20 ms",
    "delay20-0.1": "100 Mbit/s, 20 ms, loss 0.1 %",
    "delay20-1": "100 Mbit/s, 20 ms, loss 1 %",
    "dead": "20 ms, dead for 15 s",
}
LINKS = ("link100", "delay20", "delay20-0.1", "delay20-1")
RATE, PING = "mbit_per_second", "ping_ms.p99"
# A median this little below that of the other may be chance, if some rounds say the contrary.
CHANCE = 0.97

# ---- measurements -------------------------------------------------------------------------------------


def inside(netns, *command):
    return ["ip", "netns", "exec", netns, *command]


@contextlib.contextmanager
def link(command):
    """The link, as long as the block runs, if there is one; what it counted is in the dictionary afterwards."""
    counted = {}
    if not command:
        yield counted
        return
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        if not process.stdout.readline():
            sys.exit(f"the link does not begin: {process.stderr.read()[-300:]}")
        counted["began"] = time.time()
        yield counted
        process.send_signal(signal.SIGTERM)
        counted["link"] = json.loads(process.communicate(timeout=10)[0])
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def listener(netns):
    """An iperf3 that serves one test."""
    server = subprocess.Popen(inside(netns, "iperf3", "-s", "-1"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: "5201" in output(inside(netns, "ss", "-Hltn", "sport = :5201")), 5, "iperf3 does not listen")
        yield
    finally:
        server.kill()
        server.wait()


def output(command):
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def wait_for(condition, seconds, otherwise):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            sys.exit(otherwise)
        time.sleep(0.05)


def reached(args):
    wait_for(lambda: "time=" in output(inside(args.near, "ping", "-n", "-c", "1", "-W", "1", args.to)), 15,
             f"no ping comes back from {args.to}")


def fetch(args, seconds, every):
    """An iperf3 that fetches for so many seconds and says each `every` seconds how much."""
    return subprocess.Popen(inside(args.near, "iperf3", "-c", args.to, "-R", "-t", str(seconds), "-i", str(every), "-J"),
                            stdout=subprocess.PIPE, text=True)


def fetched(process, limit):
    """(start, end, bytes) of each interval, and what went wrong."""
    said = json.loads(process.communicate(timeout=limit)[0])
    parts = [part["sum"] for part in said.get("intervals", [])]
    return [(part["start"], part["end"], part["bytes"]) for part in parts], said.get("error"), said


def used(args):
    """CPU seconds of the programs that carry, and of the whole machine."""
    pids = {"near": args.near_pid, "far": args.far_pid, "server": args.server_pid}
    return {name: compare.cpu_seconds(pid) for name, pid in pids.items() if pid} | {"machine": compare.machine()[0]}


def download(args):
    with link(args.link) as counted, listener(args.far):
        reached(args)
        process = fetch(args, args.settle + args.seconds + args.ping + 1, 0.5)
        time.sleep(args.settle + 0.2)
        before = used(args)
        time.sleep(args.seconds)
        after = used(args)
        # By number, not by time: those that wait in a queue for seconds count, too. It comes to 100 a second.
        count = str(100 * args.ping)
        pings = output(inside(args.near, "ping", "-n", "-i", "0.005", "-c", count, "-W", "8", args.to))
        parts, error, said = fetched(process, args.ping + 30)
    # By their middles: under load they begin and end some milliseconds off.
    parts = [part for part in parts if args.settle < (part[0] + part[1]) / 2 < args.settle + args.seconds]
    received = sum(part[2] for part in parts)
    if error or not received:
        sys.exit(f"nothing was fetched: {error}")
    seconds = sum(end - start for start, end, _ in parts)
    if "DUP!" in pings:
        sys.exit("pings are answered twice: somebody else carries, too")
    times = sorted(float(word) for word in re.findall(r"time=([0-9.]+) ms", pings))
    if len(times) < 20:
        sys.exit(f"only {len(times)} pings are answered: {pings[-200:]}")
    gb = received / compare.GB
    cpu = {name: after[name] - before[name] for name in before}
    print(json.dumps({
        "mode": "download", "tls": args.tls, "seconds": seconds, "bytes": received, RATE: 8e-6 * received / seconds,
        "mbit_per_half_second": [round(8e-6 * amount / (end - start), 1) for start, end, amount in parts],
        "tcp_retransmits": said["end"]["sum_sent"].get("retransmits"),
        "tcp_congestion": said["end"].get("sender_tcp_congestion"),
        "cpu_seconds": cpu, "cpu_s_per_gb": {name: spent / gb for name, spent in cpu.items()},
        "iperf3_s_per_gb": iperf3_cpu(said["end"]),
        "ping_ms": {"p50": quantile(times, 0.5), "p99": quantile(times, 0.99), "max": times[-1], "answered": len(times)},
    } | counted))


def iperf3_cpu(end):
    """CPU seconds a GB of iperf3 itself, over its whole run: what TCP alone costs at each end."""
    share, whole = end["cpu_utilization_percent"], end["sum_received"]
    per_percent = end["sum_sent"]["seconds"] / 100 / (whole["bytes"] / compare.GB)
    return {"near": share["host_total"] * per_percent, "far": share["remote_total"] * per_percent}


def quantile(ordered, part):
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def dead(args):
    """Dead from the fifth second on; after that, ten more seconds."""
    begin, whole = 5, 15 + args.dead
    command = [*args.link, "--dead", f"{begin}s..{begin + args.dead}s"]
    with link(command) as counted, listener(args.far):
        reached(args)
        pings = subprocess.Popen(inside(args.near, "ping", "-n", "-D", "-i", "0.1", "-w", str(whole), args.to),
                                 stdout=subprocess.PIPE, text=True)
        process, began = fetch(args, whole - 1, 0.1), time.time()
        parts, error, _ = fetched(process, whole + 60)
        stamps = [float(stamp) for stamp in re.findall(r"^\[([\d.]+)\].*time=", pings.communicate()[0], re.MULTILINE)]
    back = counted["began"] + begin + args.dead
    # Times of iperf3 count from its connection, a moment after `began`; an interval is over when its bytes are there.
    after = [began + end for _, end, count in parts if count and began + end > back]
    answered = [stamp for stamp in stamps if stamp > back]
    silent = [count for start, end, count in parts if began + start > back - args.dead + 1 and began + end < back]
    if not silent or sum(silent):
        sys.exit(f"the link was not dead: {sum(silent)} bytes came in {len(silent)} intervals")
    print(json.dumps({
        "mode": "dead", "tls": args.tls, "dead_seconds": args.dead,
        "ping_back_s": answered[0] - back if answered else None,
        "tcp_back_s": after[0] - back if after else None,
        "tcp_broken": int(bool(error) or not after), "tcp_error": error,
        "bytes_before": sum(count for _, end, count in parts if began + end < back - args.dead),
        "bytes_after": sum(count for start, _, count in parts if began + start > back),
    } | counted))


# ---- figures ------------------------------------------------------------------------------------------


class Aim(Check):
    """A figure of `system`, alone, or as ratio to that of `other`, or as their difference; at most or at least `target`."""

    def __init__(self, figure, key, unit, system, other=None, target=None, least=False, difference=False, chance=False):
        super().__init__(figure, key, unit, system, other, target)
        self.least, self.difference, self.chance = least, difference, chance

    def against(self, own, other):
        return own - other if self.difference else own / other if other else None

    def holds(self, value):
        return value >= self.target if self.least else value <= self.target


def aims():
    yield Aim("local", RATE, "Mbit/s", "direct")
    yield Aim("local", "iperf3_s_per_gb.near", "s/GB, iperf3 that gets, no tunnel", "direct")
    yield Aim("local", "iperf3_s_per_gb.far", "s/GB, iperf3 that sends, no tunnel", "direct")
    for system in ("stock", "ours", "super"):
        yield Aim("local", RATE, "Mbit/s", system, target=6000 if system == "super" else None, least=True)
    for system, target in (("ours", 1 / 3), ("super", 1 / 8)):
        for end, word in (("near", "client that gets"), ("far", "client that sends")):
            yield Aim("local", f"cpu_s_per_gb.{end}", f"s/GB, {word}", system, "stock", target)
        yield Aim("local", "cpu_s_per_gb.server", "s/GB, server", system, "stock")
        yield Aim("local", "cpu_s_per_gb.machine", "s/GB, machine", system, "stock")
    yield Aim("local", "cpu_s_per_gb.near", "s/GB, client that gets", "stock-ours", "stock")
    yield Aim("local", "cpu_s_per_gb.near", "s/GB, client that gets", "ours-stock", "stock")
    yield Aim("local", "cpu_s_per_gb.near", "s/GB, client that gets", "ours", "stock-ours")
    for system in ("stock", "ours", "super"):
        yield Aim("local", PING, "ms, ping p99", system)
    for cell in LINKS:
        yield from aims_of_link(cell)
    for system in ("direct", "stock", "ours", "super"):
        judged = system in ("ours", "super")
        yield Aim("dead", "ping_back_s", "s until a ping", system, target=2 if judged else None)
        yield Aim("dead", "tcp_broken", "TCP broken", system, target=0 if judged else None)
        yield Aim("dead", "tcp_back_s", "s until TCP", system)


def aims_of_link(cell):
    yield Aim(cell, RATE, "Mbit/s", "stock", "direct", least=True)
    for system, target in (("ours", 0.945), ("super", 0.97)):
        yield Aim(cell, RATE, "Mbit/s", system, "direct", target if cell == "link100" else None, least=True)
    if cell != "link100":
        for system in ("ours", "super"):
            yield Aim(cell, RATE, "Mbit/s", system, "stock", 1, least=True, chance=True)
    for system in ("stock", "ours", "super"):
        yield Aim(cell, PING, "ms, ping p99", system, "direct", 10 if system != "stock" else None, difference=True)
    for end in ("near", "server"):
        for system in ("ours", "super"):
            yield Aim(cell, f"cpu_s_per_gb.{end}", f"s/GB, {'client' if end == 'near' else end}", system, "stock")


ABOUT = {
    "title": "A download through the tunnel",
    "question": "how much of a link is left through the tunnel, by which delay, for how much CPU, and what if the link is "
    "dead for a while, beside the same without a tunnel and through the stock programs?",
    "placing": "Clients, server, link and load share all CPUs, at one nice level. Each session of client 1, the stock client's "
    "too, has two connections, one of them for what is urgent, such as pings.",
    "units": "GB is 10⁹ bytes of TCP payload; CPU is that of the process named, or of the whole machine. The cell `dead` has at "
    "most three rounds. `+` is a difference.",
    "caveats": "the link is a program on the same CPUs (its own use of them stands above); both ends of it have their "
    "offloads off, and TCP gets frames one by one, which costs clients and servers more CPU than a card that merges them. "
    "Losses are the same by number of the frame, not by what it carries: a tunnel has other frames, so systems lose as many "
    "and not the same bytes; 1 % of 20 ms leaves few bytes and much chance. A process does not pay for what the kernel does "
    "in soft interrupts of others. Figures of virtual machines differ by 15 % from run to run.",
}


# ---- verdicts and tables ------------------------------------------------------------------------------

FACTS = {}


def judge(aim, results, rounds, _cpus):
    own = results.values(aim, aim.system)
    row = {"figure": aim.figure, "what": CELLS[aim.figure], "unit": aim.unit, "system": aim.system,
           "value": spread(own.values()), "runs": len(own), "other": aim.other, "target": aim.target,
           "least": aim.least, "difference": aim.difference}
    judged, measured = row["value"], set(own)
    if aim.other:
        others = results.values(aim, aim.other)
        measured &= set(others)
        row["other_value"] = spread(others.values())
        ratios = [aim.against(own[n], others[n]) for n in sorted(measured)]
        row["ratio"] = judged = spread(ratio for ratio in ratios if ratio is not None)
    if aim.figure == "dead":
        rounds = min(rounds, int(FACTS["dead_rounds"]))
    row["verdict"] = verdict(aim, results, judged, len(measured) == rounds)
    return row


def verdict(aim, results, judged, complete):
    systems = [system for system in (aim.system, aim.other) if system]
    if "super" in systems and not FACTS["super_frames"]:
        return "not measured: not built"
    if FACTS["systems"] and not set(systems) <= set(FACTS["systems"].split()):
        return ""
    for system in systems:
        if fault := link_fault(results, aim.figure, system):
            return f"not measured: {fault}"
    if aim.key.endswith("_back_s") and aim.target is not None and not complete and results.of(aim.figure, aim.system):
        return "missed: never"
    if judged is None or not complete:
        # The other figures of the run tell that nothing came back.
        return "" if aim.key.endswith("_back_s") and results.of(aim.figure, aim.system) else "not measured"
    if aim.target is None:
        return ""
    if aim.holds(judged["median"]):
        return "met"
    if aim.chance and judged["median"] >= CHANCE * aim.target and aim.holds(judged["max"]):
        return "met, within chance"
    return "missed"


def link_fault(results, figure, system):
    """Frames that the program itself lost, which no link would have."""
    for line in results.of(figure, system).values():
        for way in line["result"].get("link", {}).get("ways", []):
            for name in ("too_long", "refused", "unread"):
                if way[name]:
                    return f"the link: {way[name]} frames {name.replace('_', ' ')}"
    return ""


def exit_code(rows, args):
    """As in compare.py, but a target without a figure is open whatever the reason."""
    verdicts = [row["verdict"] for row in rows if row["target"] is not None]
    met, missed, open_ = (sum(v.startswith(word) for v in verdicts) for word in ("met", "missed", "not measured"))
    print(f"{met} targets met, {missed} missed, {open_} not measured; {args.failed} runs failed")
    return 2 if open_ or args.failed else 1 if missed else 0


def missed(line):
    """Whether a run alone misses a target of its system."""
    checks = [aim for aim in compare.alone(line["figure"]) if aim.target is not None and aim.system == line["system"]]
    values = [(aim, aim.value(line["result"])) for aim in checks]
    return any(value is None or not aim.holds(value) for aim, value in values)


def cells(row):
    sign, target = "≥" if row["least"] else "≤", ""
    if row["target"] is not None:
        target = f"{sign} {short(row['target'])}"
        if row["other"]:
            target = f"{sign} +{short(row['target'])}" if row["difference"] else f"{target} x"
    ratio = ""
    if row["other"] and row["ratio"]:
        ratio = exact(row["ratio"]) if row["least"] else shown(row["ratio"])
        ratio = f"+ {ratio}" if row["difference"] else ratio
    return [row["what"], row["unit"], row["system"], shown(row["value"]), row["other"] or "",
            shown(row["other_value"]) if row["other"] else "", ratio, target, row["verdict"]]


def exact(value):
    """Shares of a rate, whose third digit counts."""
    return f"{value['median']:.3f} ({value['min']:.3f}–{value['max']:.3f})"


def remarks(results):
    found = own_remarks(results)
    for figure, system in dict.fromkeys((line["figure"], line["system"]) for line in results.lines):
        links = [line["result"]["link"] for line in results.of(figure, system).values() if "link" in line["result"]]
        if not links:
            continue
        downward = [one["ways"][1] for one in links]
        total = lambda name, ways: sum(way[name] for way in ways)
        found.append(
            f"{figure}, {system}: to client 1 the link carried {total('carried', downward):,} frames, lost "
            f"{total('lost', downward):,} by its pattern, {total('overflow', downward):,} in its queue, "
            f"{total('dead', downward):,} while it was dead; it used "
            f"{100 * statistics.median(one['cpu_seconds'] / one['seconds'] for one in links):.0f} % of a core")
    return found


# ---- command line -------------------------------------------------------------------------------------


def own_arguments():
    at = sys.argv.index("--") if "--" in sys.argv else len(sys.argv)
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("download", "dead"))
    for name in ("near", "far", "to"):
        parser.add_argument(f"--{name}", required=True)
    for name in ("near-pid", "far-pid", "server-pid", "seconds", "ping"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--tls", default="")
    parser.add_argument("--settle", type=float, default=2)
    parser.add_argument("--dead", type=int, default=15)
    args = parser.parse_args(sys.argv[1:at])
    args.link = sys.argv[at + 1:]
    return args


def main():
    if sys.argv[1:2] and sys.argv[1] in ("download", "dead"):
        args = own_arguments()
        return {"download": download, "dead": dead}[args.mode](args) or 0
    frames_page = compare.page
    FACTS.update(word.split("=", 1) for word, flag in zip(sys.argv[1:], sys.argv) if flag == "--fact")
    compare.TITLES = CELLS
    compare.CHECKS = list(aims())
    compare.judge, compare.cells, compare.remarks = judge, cells, remarks
    compare.exit_code, compare.missed = exit_code, missed
    compare.page = lambda *args: frames_page(*args, about=ABOUT)
    return compare.main()


own_remarks = compare.remarks

if __name__ == "__main__":
    sys.exit(main())
