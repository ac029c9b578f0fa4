"""Joins the lines of docs/conformance.toml with the tests that carry their ids.

    conformance.py TABLE OUTPUT... [--write FILE]

OUTPUT is what `cargo test` has said. A test belongs to a line if its name begins with nat, dhcp or dns and the line's
id, small: `nat_u4_port_parity` to U4. Results: pass (all of its tests), FAIL, ignored, not yet (no test), reason (no test, and
the table says why), info.
"""

import argparse
import collections
import pathlib
import re
import sys
import tomllib

MUST = {"MUST"}
WANTED = {"SHOULD", "RECOMMENDED"}
SAID = re.compile(r"^test (?:[\w:]+::)?(\w+)(?: - should panic)? \.\.\. (ok|FAILED|ignored)", re.MULTILINE)
MARKED = re.compile(r"^(?:nat|dhcp|dns)_([a-z]\d+[a-z]?)(?:_|$)")


def tests_by_id(outputs):
    """{id: {name: result}}; a test of the same name in several binaries counts by its worst result."""
    found = collections.defaultdict(dict)
    worst = ["ok", "ignored", "FAILED"]
    for name, result in SAID.findall("\n".join(outputs)):
        if marked := MARKED.match(name):
            known = found[marked[1]]
            known[name] = max(result, known.get(name, "ok"), key=worst.index)
    return found


def result_of(tests, level, reason):
    if level == "info":
        return "info"
    if not tests:
        return "reason" if reason else "not yet"
    if "FAILED" in tests.values():
        return "FAIL"
    return "ignored" if "ignored" in tests.values() else "pass"


def rows(table, found):
    """(part, id, level, text, result, tests, remark) of each line."""
    for part in table["part"]:
        for name, level, text in part["lines"]:
            tests = found.pop(name.lower(), {})
            reason, choice = (table.get(kind, {}).get(name, "") for kind in ("reason", "choice"))
            yield part, name, level, text, result_of(tests, level, reason), tests, choice or reason


def summary(lines):
    """One line a level: how many have which result."""
    for level in ("MUST", "SHOULD", "RECOMMENDED", "MAY", "own"):
        counts = collections.Counter(result for _, _, own, _, result, _, _ in lines if own == level)
        yield f"{level}: " + ", ".join(f"{count} {result}" for result, count in counts.most_common())


def page(lines):
    text = ["# Conformance", "", "Written by `scripts/conformance`: each line of the standards behind gateway and NAT, and the "
            "tests that hold it (`docs/conformance.toml` has the lines). Results: *pass*; *FAIL*; *not yet*: no test; *reason*: "
            "left out, and why.", "", *(f"* {line}" for line in summary(lines))]
    part = None
    for of, name, level, what, result, tests, remark in lines:
        if of is not part:
            part = of
            text += ["", f"## {part['title']}: {part['source']}", "", "| Id | Level | What is asked | Result | Tests | Our choice, or reason |",
                     "|---|---|---|---|---|---|"]
        named = "<br>".join(f"`{test}`" for test in sorted(tests))
        text.append(f"| {name} | {level} | {what} | {result} | {named} | {remark} |")
    return "\n".join(text) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=pathlib.Path)
    parser.add_argument("outputs", nargs="+", type=pathlib.Path)
    parser.add_argument("--write", type=pathlib.Path)
    args = parser.parse_args()
    table = tomllib.loads(args.table.read_text(encoding="utf-8"))
    found = tests_by_id([path.read_text(encoding="utf-8", errors="replace") for path in args.outputs])
    lines = list(rows(table, found))
    print(f"{'id':<5} {'level':<12} {'result':<8} {'tests':>5}  what is asked")
    for _, name, level, text, result, tests, remark in lines:
        print(f"{name:<5} {level:<12} {result:<8} {len(tests):>5}  {text}" + (f" [{remark}]" if remark else ""))
    print("\n".join(summary(lines)))
    if args.write:
        args.write.write_text(page(lines), encoding="utf-8")
        print(f"written: {args.write}")
    open_ = [name for _, name, level, _, result, _, _ in lines
             if level in MUST and result != "pass" or level in WANTED and result not in ("pass", "reason") or result == "FAIL"]
    strays = [test for tests in found.values() for test in tests]
    if open_:
        print("open: " + " ".join(open_))
    if strays:
        print("no line has the id of: " + " ".join(sorted(strays)))
    return 1 if open_ or strays else 0


if __name__ == "__main__":
    sys.exit(main())
