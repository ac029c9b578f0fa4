"""What scripts/compare measures with and reports by: one run of a program, and the tables at the end.

    compare.py run --lines FILE --round N --figure F --system S [--status COMMAND] -- CMD...
        runs CMD (the password of user u1 is its input) and appends a line of JSON with what it printed last
    compare.py download --server-pid PID -- CMD...
        runs an iperf3 that fetches, and prints its rate with the server's CPU time
    compare.py echoes --server-pid PID --netns NS --to ADDRESS --seconds S
        pings, and prints how long they take
    compare.py idle --seconds S [NAME=PID...]
        what these processes use while nothing happens, in % of a core; without names, the whole machine
    compare.py report --lines FILE [--out FOLDER] ...
        tables and verdicts; exit code 0, 1 if a target was missed, 2 if something was not measured
"""

import argparse
import datetime
import json
import os
import pathlib
import platform
import re
import shlex
import statistics
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
ROOT = pathlib.Path(__file__).absolute().parents[2]
GB = 1e9


# ---- one run ------------------------------------------------------------------------------------------


def cpu_seconds(pid):
    """CPU time of all threads of a process, to the nanosecond: the clock that clock_getcpuclockid(3) names."""
    return time.clock_gettime((~pid << 3) | 2)


def machine():
    """(busy, stolen) seconds of all CPUs so far."""
    with open("/proc/stat", encoding="ascii") as stat:
        user, nice, system, _idle, _wait, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    return (user + nice + system + irq + softirq) / TICK, steal / TICK


def last_json(text):
    """The JSON object in the last line that has one; iperf3 prints one over many lines."""
    lines = text.strip().splitlines()
    for line in reversed(lines):
        if line.startswith("{") and line.endswith("}") and line != "{}":
            return json.loads(line)
    return json.loads(text)


def counters(command):
    """What our server has counted, by name; drops as drop_NAME."""
    said = json.loads(subprocess.run(shlex.split(command), capture_output=True, check=True, timeout=20).stdout)
    return said["counters"] | {"drop_" + name: count for name, count in said["drops"].items()}


def run(args):
    # As one types it in any checkout.
    command = [word.removeprefix(f"{ROOT}/") for word in args.command]
    line = {"round": args.round, "figure": args.figure, "system": args.system, "command": command}
    before = counters(args.status) if args.status else None
    began, (_, stolen) = time.monotonic(), machine()
    try:
        done = subprocess.run(
            args.command, input="secret-1\n", capture_output=True, text=True, timeout=args.limit, check=False
        )
        if done.returncode == 0:
            line["result"] = last_json(done.stdout)
        else:
            line["error"] = f"exit code {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}"
    except subprocess.TimeoutExpired:
        line["error"] = f"not done after {args.limit} s"
    except ValueError as error:
        line["error"] = f"no result: {error}: {done.stdout[-200:]!r} {done.stderr[-200:]!r}"
    line["wall_s"] = round(time.monotonic() - began, 3)
    line["stolen_s"] = round(machine()[1] - stolen, 2)
    if before:
        try:
            after = counters(args.status)
            line["server"] = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        except (OSError, subprocess.SubprocessError, ValueError) as error:
            line.setdefault("error", f"the server does not say what it counted: {error}")
    with open(args.lines, "a", encoding="utf-8") as lines:
        print(json.dumps(line), file=lines)
    said = line.get("error") or progress(args.figure, line["result"])
    print(f"  round {args.round}  {args.figure:<10} {args.system:<12} {said}", file=sys.stderr)
    if "error" in line or missed(line):
        drops = [f"{name.removeprefix('drop_')} {count}" for name, count in line.get("server", {}).items()
                 if name.startswith("drop_")]
        if before:
            print(f"    the server dropped: {', '.join(drops) or 'nothing'}", file=sys.stderr)
    return "error" in line


def alone(figure):
    """Checks of a figure that need no other system."""
    return [check for check in CHECKS if check.figure == figure and not check.other]


def progress(figure, result):
    """The first figure, and others that have a target, for the eyes of who waits."""
    first = next((check for check in CHECKS if check.figure == figure), None)
    said = []
    for check in [first] * bool(first) + [check for check in alone(figure) if check.target is not None]:
        value = check.value(one(result))
        text = f"{'-' if value is None else short(value)} {check.unit}"
        if text not in said:
            said.append(text)
    return ", ".join(said)


def missed(line):
    """Whether a run alone misses a target of its system."""
    for check in alone(line["figure"]):
        if check.target is not None and check.system == line["system"]:
            value = check.value(one(line["result"]))
            if value is None or value > check.target:
                return True
    return False


def download(args):
    before, began, (busy, _) = cpu_seconds(args.server_pid), time.monotonic(), machine()
    said = subprocess.run(args.command, capture_output=True, text=True, check=False)
    cpu, seconds = cpu_seconds(args.server_pid) - before, time.monotonic() - began
    busy = machine()[0] - busy
    end = json.loads(said.stdout).get("end", {})
    if "sum_received" not in end or not end["sum_received"]["bytes"]:
        sys.exit(f"nothing was fetched: {said.stdout[-300:]}")
    gb = end["sum_received"]["bytes"] / GB
    print(json.dumps({
        "mode": "download",
        "tls": args.tls,
        "seconds": seconds,
        "bytes": end["sum_received"]["bytes"],
        "mbit_per_second": end["sum_received"]["bits_per_second"] / 1e6,
        "server_cpu_seconds": cpu,
        "server_cpu_s_per_gb": cpu / gb,
        "server_cores": cpu / seconds,
        "machine_cpu_s_per_gb": busy / gb,
        "tcp_retransmits": end["sum_sent"].get("retransmits"),
    }))


def ping(args):
    """Round trips between two virtual cards while four TCP streams go the same way."""
    inside = ["ip", "netns", "exec", args.netns]
    bulk = subprocess.Popen([*inside, "iperf3", "-c", args.to, "-P", "4", "-t", str(args.seconds + 2), "-J"],
                            stdout=subprocess.PIPE, text=True)
    time.sleep(1)
    seen = pings(inside, args)
    streams = bulk.communicate(timeout=args.seconds + 20)[0]
    rate = json.loads(streams)["end"]["sum_received"]["bits_per_second"] / 1e6
    print(json.dumps({"mode": "ping", "tls": args.tls, "mbit_per_second": rate} | seen))


def echoes(args):
    """Round trips while nothing else goes on."""
    print(json.dumps({"mode": "echoes"} | pings(["ip", "netns", "exec", args.netns], args)))


def pings(inside, args):
    """200 round trips a second, and the server's CPU time meanwhile."""
    before, began = cpu_seconds(args.server_pid), time.monotonic()
    said = subprocess.run([*inside, "ping", "-n", "-i", "0.005", "-w", str(args.seconds), args.to],
                          capture_output=True, text=True, check=False).stdout
    cpu, seconds = cpu_seconds(args.server_pid) - before, time.monotonic() - began
    times = sorted(1000 * float(word) for word in re.findall(r"time=([0-9.]+) ms", said))
    sent = int((re.findall(r"(\d+) packets transmitted", said) or ["0"])[0])
    if len(times) < 20:
        sys.exit(f"only {len(times)} answers: {said[-300:]}")
    at = lambda quantile: times[min(len(times) - 1, int(quantile * len(times)))]
    return {
        "seconds": seconds,
        "sent": sent,
        "frames": len(times),
        # The last one is still on its way when ping ends.
        "lost": max(0, sent - len(times) - 1),
        "server_cores": cpu / seconds,
        "latency_us": {"p50": at(0.5), "p90": at(0.9), "p99": at(0.99), "max": times[-1], "count": len(times)},
    }


def idle(args):
    pids = {name: int(pid) for name, pid in (word.split("=") for word in args.processes)}
    before, (busy, _) = {name: cpu_seconds(pid) for name, pid in pids.items()}, machine()
    time.sleep(args.seconds)
    used = [f"{name} {100 * (cpu_seconds(pid) - before[name]) / args.seconds:.2f} %" for name, pid in pids.items()]
    print(", ".join(used) if pids else f"{100 * (machine()[0] - busy) / args.seconds:.0f} %")


# ---- what is compared with what -----------------------------------------------------------------------


def one(result):
    """The flat object of a mode that makes several steps."""
    return result["steps"][0] if "steps" in result else result


class Check:
    """A figure of `system`, alone or as a ratio to that of `other`, with a target (at most so much) or without."""

    def __init__(self, figure, key, unit, system, other=None, target=None):
        self.figure, self.key, self.unit, self.system, self.other = figure, key, unit, system, other
        self.target = target

    def value(self, result):
        """The figure in a result, None if it is not there."""
        for key in self.key.split("."):
            result = result.get(key) if result else None
        return result


TITLES = {
    "bulk": "bulk, 1,400-byte frames",
    "burst-64": "64-byte frames in bursts",
    "rate-1k": "64-byte frames, 1,000 a second",
    "rate-5k": "64-byte frames, 5,000 a second",
    "rate-20k": "64-byte frames, 20,000 a second",
    "rate-60k": "64-byte frames, 60,000 a second",
    "download": "download at 100 Mbit/s, stock clients",
    "rtt-taps": "ping beside 4 TCP streams, stock clients",
    "rtt-bulk": "round trip beside bulk, generator",
    "login-p256": "login, P-256",
    "login-rsa": "login, RSA-2048",
    "broadcast": "broadcast to 1,000 members",
    "members": "active members, same frames a second",
    "cross": "pairs apart on two workers, 1,400 bytes",
    "cross-200": "pairs apart on two workers, 200 bytes",
    "scaling": "workers and generator threads",
}
PER_GB, PER_FRAME, P99 = "server_cpu_s_per_gb", "server_cpu_us_per_frame", "latency_us.p99"
LOGIN = "server_cpu_ms_per_login"

RATES = (1, 5, 20, 60)

CHECKS = [
    Check("bulk", PER_GB, "s/GB", "ours", target=0.50),
    Check("bulk", PER_GB, "s/GB", "ours", "k", 1.25),
    Check("bulk", PER_GB, "s/GB", "ours", "haproxy", 0.4),
    Check("bulk", PER_GB, "s/GB", "ours", "stock"),
    Check("burst-64", PER_FRAME, "us/frame", "ours", target=0.25),
    Check("burst-64", PER_FRAME, "us/frame", "ours", "stock"),
    *(Check(f"rate-{k}k", PER_FRAME, "us/frame", "ours", "stock", 0.5 if k == 60 else 0.25) for k in RATES),
    *(Check(f"rate-{k}k", P99, "us p99", "ours", target=300) for k in RATES),
    *(Check(f"rate-{k}k", P99, "us p99", "ours", "stock") for k in RATES),
    Check("download", PER_GB, "s/GB", "ours", "stock", 0.2),
    Check("rtt-taps", P99, "us p99", "ours", "stock", 0.1),
    Check("rtt-bulk", P99, "us p99", "ours", "stock"),
    Check("login-p256", LOGIN, "ms", "ours-p256", target=0.5),
    Check("login-rsa", LOGIN, "ms", "ours", target=1.3),
    Check("login-rsa", LOGIN, "ms", "ours", "stock"),
    Check("broadcast", PER_FRAME, "us/copy", "ours", "stock", 0.2),
    Check("members", PER_FRAME, "us/frame", "5000", "10", 1.3),
    Check("cross", PER_FRAME, "us/frame", "apart", "together", 1.25),
    Check("cross", PER_FRAME, "us/frame", "apart", "one-worker"),
    Check("cross-200", PER_FRAME, "us/frame", "apart", "together", 1.25),
    *(Check("scaling", "frames_per_second", "frames/s", str(n)) for n in (1, 2, 4, 8)),
    *(Check("scaling", PER_FRAME, "us/frame", str(n)) for n in (1, 2, 4, 8)),
]


def kernel_checks(version):
    """Masked kernel features against all of them."""
    target, system = {"6.1": 1.15, "5.15": 2.0}[version], f"ours-{version}"
    costs = [("bulk", PER_GB, "s/GB"), ("burst-64", PER_FRAME, "us/frame")]
    costs += [(f"rate-{k}k", PER_FRAME, "us/frame") for k in RATES]
    delays = [(f"rate-{k}k", P99, "us p99") for k in RATES] + [("rtt-bulk", P99, "us p99")]
    return [Check(*row, system, "ours", target) for row in costs] + [Check(*row, system, "ours") for row in delays]


class Results:
    """The lines of all runs."""

    def __init__(self, lines):
        self.lines = lines
        self.by_run = {(line["figure"], line["system"], line["round"]): line for line in lines}

    def of(self, figure, system):
        """(round, line) of the runs that came to something."""
        return {
            number: line
            for (f, s, number), line in self.by_run.items()
            if (f, s) == (figure, system) and "result" in line
        }

    def values(self, check, system):
        """Figure by round."""
        values = {number: check.value(one(line["result"])) for number, line in self.of(check.figure, system).items()}
        return {number: value for number, value in values.items() if value is not None}

    def total(self, figure, system, key):
        """Sum of a count over all rounds."""
        return sum(one(line["result"]).get(key) or 0 for line in self.of(figure, system).values())

    def lost_share(self, figure, system):
        """Frames that did not arrive, of all that should have."""
        lost = self.total(figure, system, "lost")
        return lost / (lost + self.total(figure, system, "frames")) if lost else 0.0

    def fault(self, figure, system):
        """Why the figures of a system do not count, if so."""
        for key in FAULTS:
            if (count := self.total(figure, system, key)):
                return f"{key} {count}"
        # A lost ping saves no work.
        if figure != "rtt-taps" and self.lost_share(figure, system) > LOST_MAX:
            return "lost frames"
        for line in self.of(figure, system).values():
            run = one(line["result"])
            wanted = (run.get("rate") or 0) * (1000 if figure == "broadcast" else 1)
            if wanted and figure != "rtt-bulk" and run.get("frames_per_second", 0) < RATE_MIN * wanted:
                return "below its rate"
        share = self.crossing(figure, system) if figure.startswith("cross") else None
        if share is not None and (share < 0.9 if system == "apart" else share > 0.1):
            return f"{100 * share:.0f} % of its frames crossed"
        return ""

    def late_us(self, figure, system):
        """How late one record in a hundred left the generator, median of the rounds."""
        late = [one(line["result"]).get("generator_late_us") for line in self.of(figure, system).values()]
        return statistics.median([us for us in late if us is not None] or [0])

    def crossing(self, figure, system):
        """Frames handed to another worker, of all that came in."""
        counts = [line.get("server", {}) for line in self.of(figure, system).values()]
        came = sum(count.get("frames_in", 0) for count in counts)
        return sum(count.get("handed_over", 0) for count in counts) / came if came else None


def judge(check, results, rounds, cpus):
    """A row of the table: figures, ratio of the same rounds, verdict."""
    own = results.values(check, check.system)
    row = {"figure": check.figure, "what": TITLES[check.figure], "unit": check.unit, "system": check.system,
           "value": spread(own.values()), "runs": len(own), "other": check.other, "target": check.target}
    judged = row["value"]
    if check.other:
        others = results.values(check, check.other)
        both = sorted(own.keys() & others.keys())
        row["other_value"] = spread(others.values())
        row["ratio"] = judged = spread(own[n] / others[n] for n in both if others[n])
        complete = len(both) == rounds
    else:
        complete = len(own) == rounds
    row["verdict"] = verdict(check, results, judged, complete, cpus)
    return row


# Counts of which one is too many.
FAULTS = ["corrupt", "duplicate", "reordered", "connections_lost"]

# Of more than this share, what was lost was work that was saved.
LOST_MAX = 0.001

# Of the frames a second that were asked for, less than this share is another load.
RATE_MIN = 0.98


def verdict(check, results, judged, complete, cpus):
    if judged is None or not complete:
        if check.figure == "scaling" and cpus < 2 * int(check.system):
            return f"not measured: {cpus} cores"
        return "not measured"
    if check.target is None:
        return ""
    for system in filter(None, (check.other, check.system)):
        fault = results.fault(check.figure, system)
        if fault:
            return f"missed: {fault}" if system == check.system else f"not measured: {system} {fault}"
    if judged["median"] <= check.target:
        return "met"
    late = results.late_us(check.figure, check.system)
    return "missed: generator late" if check.key == P99 and not check.other and late > check.target / 2 else "missed"


def spread(values):
    """Median, smallest, largest."""
    values = sorted(values)
    return {"median": statistics.median(values), "min": values[0], "max": values[-1]} if values else None


# ---- tables -------------------------------------------------------------------------------------------


def short(number):
    """Three digits that count."""
    if number == 0:
        return "0"
    if abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.3g}" if abs(number) < 100 else f"{number:.0f}"


def shown(value):
    """Median (smallest-largest)."""
    if value is None:
        return "-"
    return f"{short(value['median'])} ({short(value['min'])}\u2013{short(value['max'])})"


HEAD = ["figure", "unit", "system", "median (min\u2013max)", "against", "median (min\u2013max)", "ratio", "target", "verdict"]


def cells(row):
    target = "" if row["target"] is None else f"\u2264 {row['target']:g}" + (" x" if row["other"] else "")
    return [row["what"], row["unit"], row["system"], shown(row["value"]), row["other"] or "",
            shown(row["other_value"]) if row["other"] else "", shown(row["ratio"]) if row["other"] else "", target,
            row["verdict"]]


def plain(rows):
    table = [HEAD] + [cells(row) for row in rows]
    widths = [max(len(line[at]) for line in table) for at in range(len(HEAD))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in table)


def markdown_table(rows):
    lines = ["| " + " | ".join(HEAD) + " |", "|" + "---|" * len(HEAD)]
    return "\n".join(lines + ["| " + " | ".join(cells(row)) + " |" for row in rows])


def remarks(results):
    """What was lost, what held the generator back, what crossed, what the hypervisor took: a line each."""
    found = []
    for figure, system in dict.fromkeys((line["figure"], line["system"]) for line in results.lines):
        where = f"{figure}, {system}:"
        for key in ("lost", "duplicate", "reordered", "corrupt", "stray", "dropped_here", "connections_lost"):
            if count := results.total(figure, system, key):
                found.append(f"{where} {count:,} {key.replace('_', ' ')} "
                             f"beside {results.total(figure, system, 'frames'):,} frames delivered while measured")
        drops = {}
        for line in results.of(figure, system).values():
            for name, count in line.get("server", {}).items():
                # The generator's member 0 greets itself, once a run.
                count -= name == "drop_hub_same_port"
                if name.startswith("drop_") and count:
                    drops[name[5:]] = drops.get(name[5:], 0) + count
        if drops:
            found.append(f"{where} the server dropped " + ", ".join(f"{count:,} {name}" for name, count in drops.items()))
        found += held_back(results, figure, system, where)
        if system.isdigit() and figure == "scaling" or figure.startswith("cross"):
            if (share := results.crossing(figure, system)) is not None:
                found.append(f"{where} {100 * share:.1f} % of the frames crossed from one worker to another")
    stolen = sum(line["stolen_s"] for line in results.lines)
    if stolen >= 0.1:
        whole = sum(line["wall_s"] for line in results.lines)
        found.append(f"the hypervisor took {stolen:.1f} s of CPU time from this machine in {whole:.0f} s of runs")
    for line in results.lines:
        if "error" in line:
            found.append(f"{line['figure']}, {line['system']}, round {line['round']} failed: {line['error']}")
    return found


def held_back(results, figure, system, where):
    """Whether the generator was the limit of something."""
    runs = [one(line["result"]) for line in results.of(figure, system).values()]
    busy = [run["generator_busy"] for run in runs if run.get("generator_busy")]
    short_of = [run["frames_per_second"] / run["rate"] for run in runs
                if run.get("rate") and run.get("mode") in ("throughput", "latency") and figure != "rtt-bulk"]
    if busy and statistics.median(busy) > 0.9:
        yield f"{where} the generator was at its limit (its thread busy for {100 * statistics.median(busy):.0f} %)"
    if (late := results.late_us(figure, system)) > 50:
        yield f"{where} one record in a hundred left the generator {late:.0f} us late or later"
    if short_of and statistics.median(short_of) < 0.99:
        yield f"{where} only {100 * statistics.median(short_of):.0f} % of the rate went through"


# ---- report -------------------------------------------------------------------------------------------


def read(path, pattern):
    found = re.search(pattern, pathlib.Path(path).read_text(encoding="utf-8"), re.MULTILINE)
    return found[1].strip() if found else "unknown"


def machine_facts():
    flags = read("/proc/cpuinfo", r"^flags\s*:(.*)").split()
    return {
        "processor": read("/proc/cpuinfo", r"^model name\s*:(.*)"),
        "cores": os.cpu_count(),
        "memory_gib": round(int(read("/proc/meminfo", r"^MemTotal:\s*(\d+)")) / 2**20, 1),
        "virtual": "hypervisor" in flags,
        "vaes": "vaes" in flags,
        "kernel": platform.release(),
    }


def report(args):
    lines = [json.loads(line) for line in pathlib.Path(args.lines).read_text(encoding="utf-8").splitlines()]
    results, figures = Results(lines), args.figures.split()
    facts = machine_facts() | dict(fact.split("=", 1) for fact in args.fact)
    checks = [c for c in (kernel_checks(args.kernel) if args.kernel else CHECKS) if c.figure in figures]
    rows = [judge(check, results, args.rounds, facts["cores"]) for check in checks]
    found = remarks(results)
    print(plain(rows))
    for line in found:
        print(f"  * {line}")
    if args.out:
        name = free_name(pathlib.Path(args.out), args.suffix)
        data = {"facts": facts, "rounds": args.rounds, "rows": rows, "remarks": found, "runs": lines}
        # Not with_suffix: a version such as 6.1 ends in one of its own.
        name.with_name(f"{name.name}.json").write_text(packed(data), encoding="utf-8")
        name.with_name(f"{name.name}.md").write_text(page(facts, rows, found, results, args), encoding="utf-8")
        print(f"written: {name}.md, .json")
    return exit_code(rows, args)


def exit_code(rows, args):
    verdicts = [row["verdict"] for row in rows]
    met, missed = verdicts.count("met"), sum(v.startswith("missed") for v in verdicts)
    open_ = sum(v == "not measured" for v in verdicts)
    print(f"{met} targets met, {missed} missed; {open_} rows without figures, {args.failed} runs failed")
    return 2 if open_ or args.failed else 1 if missed else 0


def packed(data):
    """JSON with one run a line."""
    runs = ",\n  ".join(json.dumps(line) for line in data["runs"])
    head = json.dumps({key: value for key, value in data.items() if key != "runs"}, indent=1)
    return f"{head[:-2]},\n \"runs\": [\n  {runs}\n ]\n}}\n"


def free_name(folder, suffix):
    """Results are never overwritten."""
    base = f"{datetime.date.today()}-compare" + (f"-{suffix}" if suffix else "")
    for number in range(1, 100):
        name = folder / (base if number == 1 else f"{base}-{number}")
        if not any(pathlib.Path(f"{name}.{end}").exists() for end in ("md", "json")):
            return name
    sys.exit(f"{folder}: there are too many {base}")


def about_frames(args):
    """What the page of the figures above says about them."""
    return {
        "title": f"Side by side{', kernel features of ' + args.kernel if args.kernel else ''}",
        "question": f"what do frames cost with the kernel features of Linux {args.kernel} only, by those with all?"
        if args.kernel else "what do frames, logins and members cost, beside stock SoftEther and beside pipes that only "
        "decrypt and encrypt, in the same run?",
        "placing": "All servers on CPU 1, at the same nice level; generator, stock clients and this script on CPU 0.",
        "caveats": "throughput is the generator's as much as the server's, one CPU each. Work that the kernel does for a "
        "socket in the sender's context counts for the sender. Delays are those from generator to generator, so that of the "
        "wire and of its own threads is in them. Stock clients and iperf3 of the download share CPU 0. Figures of virtual "
        "machines differ by 15 % from run to run.",
    }


UNITS = "GB is 10⁹ bytes of frames (pipes and download: of payload); CPU is that of the server's process."


def page(facts, rows, found, results, args, about=None):
    """`about`: heading, question, machine, caveats and perhaps units of another set of figures."""
    about = about or about_frames(args)
    met = sum(row["verdict"] == "met" for row in rows)
    asked = sum(row["target"] is not None for row in rows)
    missed = [f"{row['what']}, {row['system']}" + (f" against {row['other']}" if row["other"] else "")
              for row in rows if row["verdict"].startswith("missed")]
    commands = {}
    for line in results.lines:
        commands.setdefault((line["figure"], line["system"]), shlex.join(line["command"]))
    kinds = {}
    for line in results.lines:
        if tls := one(line.get("result", {})).get("tls"):
            who = f" ({line['figure']}, {line['system']})" if line["figure"] == "download" else ""
            kinds[f"{tls}{who}"] = None
    return "\n".join([
        f"# {about['title']}",
        "",
        f"**Question**: {about['question']}",
        f"**Answer**: {met} of {asked} targets met" + (f"; missed: {'; '.join(missed)}." if missed else "."),
        "",
        f"**Machine**: {facts['processor']}, {'virtual' if facts['virtual'] else 'not virtual'}, {facts['cores']} CPUs, "
        f"{facts['memory_gib']} GiB, {'with' if facts['vaes'] else 'without'} VAES. "
        f"{about['placing']} "
        f"Congestion control cubic. Busy before the start: {facts['quiet']} of one core. Servers at rest, all running: {facts['idle']} of one core.",
        "",
        f"**Versions**: Hublane {facts['hublane']}; {facts['rustc']}; Linux {facts['kernel']}. Server's log: "
        f"`{facts['kernel_line']}`. SoftEther {facts['softether']}; {facts['haproxy']}. {', '.join(kinds)}.",
        "",
        "**Command**, as root:",
        "",
        f"```sh\n{facts['command'].strip()}\n```",
        "",
        "Configuration of Hublane:",
        "",
        f"```toml\n{facts['config'].strip()}\n```",
        "",
        f"**Figures**, {args.rounds} round{'s' if args.rounds > 1 else ''}, the systems taking turns in each. A ratio is the median of the ratios of the same "
        f"rounds. {about.get('units', UNITS)}",
        "",
        markdown_table(rows),
        "",
        *(f"* {line}" for line in found),
        "",
        f"**What it does not say**: {about['caveats']}",
        "",
        "The commands of the runs, of the first round each:",
        "",
        "```sh",
        *(f"# {figure}, {system}\n{command}" for (figure, system), command in commands.items()),
        "```",
        "",
    ])


# ---- command line -------------------------------------------------------------------------------------


def arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    modes = parser.add_subparsers(dest="mode", required=True)
    a = modes.add_parser("run")
    for name in ("lines", "figure", "system"):
        a.add_argument(f"--{name}", required=True)
    a.add_argument("--round", type=int, required=True)
    a.add_argument("--limit", type=float, default=120)
    a.add_argument("--status")
    a.add_argument("command", nargs="+")
    a = modes.add_parser("download")
    a.add_argument("--tls", default="")
    a.add_argument("--server-pid", type=int, required=True)
    a.add_argument("command", nargs="+")
    a = modes.add_parser("ping")
    a.add_argument("--tls", default="")
    a.add_argument("--server-pid", type=int, required=True)
    for name in ("netns", "to"):
        a.add_argument(f"--{name}", required=True)
    a.add_argument("--seconds", type=int, required=True)
    a = modes.add_parser("echoes")
    a.add_argument("--server-pid", type=int, required=True)
    for name in ("netns", "to"):
        a.add_argument(f"--{name}", required=True)
    a.add_argument("--seconds", type=int, required=True)
    a = modes.add_parser("idle")
    a.add_argument("--seconds", type=float, default=1)
    a.add_argument("processes", nargs="*")
    a = modes.add_parser("report")
    for name in ("lines", "figures"):
        a.add_argument(f"--{name}", required=True)
    for name in ("out", "suffix", "kernel"):
        a.add_argument(f"--{name}", default="")
    for name in ("rounds", "failed"):
        a.add_argument(f"--{name}", type=int, required=True)
    a.add_argument("--fact", action="append", default=[])
    return parser.parse_args()


def main():
    args = arguments()
    modes = {"run": run, "download": download, "ping": ping, "idle": idle, "report": report, "echoes": echoes}
    return modes[args.mode](args) or 0


if __name__ == "__main__":
    sys.exit(main())
