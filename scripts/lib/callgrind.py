"""Judges what callgrind counted: instructions per frame against their budgets, and calls that must not grow.

    callgrind.py BUDGETS FOLDER RUSTC TARGET [--update]

FOLDER has `list` (piece, frames a round, rounds, what it covers) and for each piece callgrind's output for its rounds
and for twice as many, PIECE.ROUNDS. All figures are differences of the two, so that set-up falls out.
"""

import collections
import os
import re
import sys
import tomllib

TOLERANCE = 0.03
SELF_TEST = "self-test"

# What the way of a frame must not do: by the name of a function that is called, and by the source file of code that
# was inlined (a lock that nobody else holds is taken without any call).
FORBIDDEN = {
    "allocation": (
        r"^_*mi_(malloc|zalloc|calloc|realloc|free|theap)|^(malloc|calloc|realloc|free|cfree|posix_memalign|aligned_alloc)(@|$)"
        r"|__rust_(alloc|dealloc|realloc)|__rdl_|RawVec.*(grow|reserve)",
        None,
    ),
    "mutex": (r"(?i)mutex|futex|lock_contended", r"sync/(poison/)?mutex|parking_lot|lock_api"),
    "rwlock": (r"(?i)rwlock", r"sync/(poison/)?rwlock"),
    "clock": (r"clock_gettime|gettimeofday|vdso|(Timespec|Instant|SystemTime)>?::now", r"std/src/(time|sys/(pal/unix/)?time)"),
    "format": (r"(core|alloc)::fmt", r"(core/src/fmt/|alloc/src/fmt\.rs)"),
}

# Where the AEAD begins. Its own instructions depend on the machine (valgrind hides some of its units) and are not ours
# to shorten.
AEAD = re.compile(r"EVP_AEAD_CTX_(seal|open)")

# Copying is libc's, and it has a version of it for each kind of machine.
COPY = re.compile(r"^__mem(cpy|move)_\w+")


class Counts:
    """One output of callgrind (format: valgrind's manual, "Callgrind Format Specification")."""

    def __init__(self, path):
        self.total = self.aead = 0
        # By name of the function, by source file. Calls are no guide: they are noted where nothing is counted, too.
        self.functions = collections.Counter()
        self.files = collections.Counter()
        function = callee = file = ""
        in_call = False
        with open(path, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                key, _, value = line.rstrip("\n").partition("=")
                if key == "fn":
                    function = value
                elif key in ("fl", "fi", "fe"):
                    file = value
                elif key == "cfn":
                    callee = value
                elif key == "calls":
                    in_call = True
                elif line[:1].isdigit() or line[:1] in "+-*":
                    cost = int(line.split()[1]) if len(line.split()) > 1 else 0
                    # The line after `calls` has the cost of the calls with all that they call.
                    if not in_call:
                        self.total += cost
                        self.functions[function] += cost
                        self.files[file] += cost
                    elif AEAD.search(callee):
                        self.aead += cost
                    in_call = False


class Piece:
    def __init__(self, folder, line):
        self.name, each, rounds, self.covers = line.rstrip("\n").split("\t")
        once, twice = (Counts(os.path.join(folder, f"{self.name}.{int(rounds) * n}")) for n in (1, 2))
        self.frames = int(each) * int(rounds)
        self.aead = twice.aead - once.aead
        self.cost = (twice.total - once.total - self.aead) / self.frames
        self.copies = {match[0] for name in twice.functions if (match := COPY.match(name))}
        self.grown = {}
        for what, (name, file) in FORBIDDEN.items():
            grown = [(n, f) for f, n in (twice.functions - once.functions).items() if re.search(name, f)]
            grown += [(n, f) for f, n in (twice.files - once.files).items() if file and re.search(file, f)]
            if grown:
                self.grown[what] = grown


def write(path, machine, pieces):
    with open(path, "w", encoding="utf-8") as out:
        out.write(
            "# Instructions per frame of each piece of the way of a frame, without those of the AEAD. Written by\n"
            "# `scripts/instructions --update`; scripts/test fails if a piece grows by more than 3 %. A change that costs\n"
            "# more, or less, changes this file in the same commit and says why. See perf/method.md.\n\n"
            "# The budgets hold for this compiler and machine, and mean nothing on others.\n"
        )
        out.writelines(f'{key} = "{value}"\n' for key, value in machine.items())
        for piece in pieces:
            out.write(f'\n[{piece.name}]\ncovers = "{piece.covers}"\ninstructions = {piece.cost:.1f}\n')


def aead_found(pieces):
    """Whether the AEAD was left out where it must occur: else its name has changed."""
    good = all(piece.aead > 0 for piece in pieces if piece.name.startswith(("record", "switch", "flood", "nat")))
    if not good:
        print(f"FAIL: the AEAD was not found by its name, {AEAD.pattern}")
    return good


def compare(budgets, pieces):
    """Prints the table; true if no piece grew."""
    print(f"{'piece':<14} {'budget':>8} {'counted':>8} {'change':>8}  verdict")
    good = True
    for piece in pieces:
        budget = budgets.get(piece.name, {}).get("instructions")
        if budget is None:
            print(f"{piece.name:<14} {'none':>8} {piece.cost:>8.1f} {'':>8}  FAIL: no budget; scripts/instructions --update makes one")
            good = False
            continue
        change = piece.cost / budget - 1
        verdict = "pass"
        if change > TOLERANCE:
            verdict, good = "FAIL: it grew. If that is meant: scripts/instructions --update, and the reason in the commit", False
        elif change < -TOLERANCE:
            verdict = "pass: better. Please lower the budget: scripts/instructions --update"
        print(f"{piece.name:<14} {budget:>8.1f} {piece.cost:>8.1f} {100 * change:>+7.1f}%  {verdict}")
    return good


def forbidden(pieces, self_test):
    """Whether no piece does what it must not, and the search would have seen it."""
    good = True
    for what in FORBIDDEN:
        if what not in self_test.grown:
            print(f"FAIL: the search is blind: it does not see the {what} of the self-test")
            good = False
        for piece in pieces:
            for instructions, where in piece.grown.get(what, []):
                print(f"FAIL: {piece.name}: {what}: {instructions} instructions in {piece.frames} frames: {where}")
                good = False
    if good:
        print(f"{', '.join(FORBIDDEN)} per frame: none, in any piece; the self-test's were seen")
    return good


def main():
    path, folder, rustc, target, *update = sys.argv[1:]
    with open(os.path.join(folder, "list"), encoding="utf-8") as lines:
        pieces = [Piece(folder, line) for line in lines]
    self_test = next(piece for piece in pieces if piece.name == SELF_TEST)
    pieces.remove(self_test)
    copies = " ".join(sorted(set().union(*(piece.copies for piece in pieces))))
    machine = {"rustc": rustc, "target": target, "copies": copies}
    good = forbidden(pieces, self_test)
    good = aead_found(pieces) and good
    if update:
        write(path, machine, pieces)
    with open(path, "rb") as file:
        budgets = tomllib.load(file)
    other = [f"{key} {budgets.get(key)!r}, here {value!r}" for key, value in machine.items() if budgets.get(key) != value]
    if other:
        print(f"=== budgets SKIPPED: they are for {'; '.join(other)}. Nothing was compared. ===")
    else:
        good = compare(budgets, pieces) and good
    sys.exit(not good)


main()
