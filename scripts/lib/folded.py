"""Samples of `perf script` on stdin → folded stacks in the file named, and tables of them on stdout.

    perf script --fields comm,ip,sym,dso | folded.py FILE
"""

import collections
import re
import sys

ROWS = 25

# Groups by the name of a function. A sample belongs to the first group that one of its functions names, looked for
# from the innermost outwards, so that a copy inside tcp_sendmsg is a copy.
KERNEL = [
    ("kernel: copy", r"copy_(user|from|to|page)|_copy_|copyin|copyout|rep_movs|memcpy|memmove|clear_page"),
    ("kernel: TCP and devices", r"tcp|^ip_|^ip6?_|inet|skb|sock|netif|napi|veth|^dev_|^__dev_|net_rx|csum|dst_|qdisc|nf_"),
    ("kernel: io_uring, epoll", r"^(__)?io_|epoll|^ep_"),
]
USER = [
    ("AEAD", r"aws_lc|aes|gcm|ghash|chacha|poly1305"),
    ("copy", r"^__?mem(cpy|move|set)|^mem(cpy|move|set)"),
    ("allocator", r"^_*mi_|^(malloc|free|calloc|realloc)$"),
]
OURS = re.compile(r"hublane::(\w+)(?:::(\w+))?")


def samples(lines):
    """(thread, frames from the innermost outwards as (function, object)) of each sample."""
    thread, frames = "", []
    for line in lines:
        if not line.strip():
            if frames:
                yield thread, frames
            thread, frames = "", []
        elif line[0].isspace():
            match = re.match(r"\s+[0-9a-f]+ (.*) \((.*)\)$", line)
            if match:
                name = re.sub(r"\+0x[0-9a-f]+$", "", match[1])
                frames.append((re.sub(r"::h[0-9a-f]{16}$", "", name), match[2]))
        else:
            thread = line.strip()
    if frames:
        yield thread, frames


def in_kernel(frame):
    return frame[1].startswith(("[kernel", "[guest.kernel", "[vdso")) or frame[1].endswith(".ko")


def group(frames):
    if in_kernel(frames[0]):
        frames, groups, rest = [frame for frame in frames if in_kernel(frame)], KERNEL, "kernel: other"
    else:
        groups, rest = USER, "other"
    for function, _ in frames:
        for name, pattern in groups:
            if re.search(pattern, function):
                return name
        if ours := OURS.search(function):
            return "ours: " + "/".join(part for part in ours.groups() if part)
    return rest


def table(title, counts, total, rows):
    print(f"\n{'share':>6}  {title}")
    for name, count in counts.most_common(rows):
        print(f"{100 * count / total:>5.1f}%  {name[:110]}")


def main():
    stacks, functions, groups = (collections.Counter() for _ in range(3))
    for thread, frames in samples(sys.stdin):
        stacks[";".join([thread, *(name.replace(";", ":") for name, _ in reversed(frames))])] += 1
        functions[frames[0][0]] += 1
        groups[group(frames)] += 1
    total = sum(stacks.values())
    if total == 0:
        sys.exit("no samples: was the process idle?")
    with open(sys.argv[1], "w", encoding="utf-8") as out:
        out.writelines(f"{stack} {count}\n" for stack, count in sorted(stacks.items()))
    print(f"{total} samples")
    table("group", groups, total, None)
    table("function (itself)", functions, total, ROWS)


main()
