#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the records of the scenarios (lib.sh says what they are) into a table and JSON.

The interval of a median is the one between two order statistics that holds it with at least 95 %,
whatever the distribution; with fewer than 6 samples it is minimum to maximum. A ratio is taken
within each pair, so what slows both sides of a pair down does not count. A goal is met (green) or
missed (red) only if the whole interval is on one side of it; else it is undecided.
"""
import argparse
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys


def first_line(command):
    try:
        out = subprocess.run(command, capture_output=True, text=True, timeout=20)
        return (out.stdout or out.stderr).splitlines()[0].strip()
    except (OSError, IndexError, subprocess.TimeoutExpired):
        return "not there"


def machine():
    with open("/proc/cpuinfo") as f:
        info = f.read()
    model = re.search(r"model name\s*: (.*)", info)
    flags = re.search(r"flags\s*: (.*)", info)
    flags = set(flags.group(1).split()) if flags else set()
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        kvm = "none"
    elif flags & {"svm", "vmx"}:
        kvm = "hardware"
    else:
        kvm = "software (no svm or vmx)"
    return {
        "cpu": f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} CPUs",
        "kernel": platform.release(),
        "kvm": kvm,
        "load": " ".join(f"{x:.2f}" for x in os.getloadavg()),
        "qemu": first_line(["qemu-system-x86_64", "--version"]),
        "unvmm": first_line([os.environ.get("BENCH_UNVMM", "build/unvmm"), "--version"]),
    }


def interval(values):
    """Lower and upper end around the median, and with what probability they hold it."""
    v, n = sorted(values), len(values)

    def coverage(k):  # of [v[k], v[n - 1 - k]]
        return 1 - 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n

    k = 0
    while k + 1 < n - 1 - k and coverage(k + 1) >= 0.95:
        k += 1
    return v[k], v[n - 1 - k], coverage(k)


def summary(values):
    low, high, cover = interval(values)
    return {"n": len(values), "median": statistics.median(values), "low": low, "high": high,
            "coverage": cover}


def verdict(s, limit, minimum, reach, quick):
    if quick:
        return "quick: not a verdict"
    if reach:
        return "green" if s["high"] >= limit else "red"
    met_low, met_high = (s["low"] >= limit, s["high"] >= limit) if minimum else \
        (s["low"] <= limit, s["high"] <= limit)
    if met_low and met_high:
        return "green"
    return "undecided" if met_low or met_high else "red"


def ratios(unvmm, peer):
    """Of the pairs that have both sides. A peer that counts 0: equal, or beyond any limit."""
    both = sorted(unvmm.keys() & peer.keys())
    return [unvmm[p] / peer[p] if peer[p] else (math.inf if unvmm[p] else 1.0) for p in both]


def read_records(paths):
    figures, extra = {}, {"machine": {}, "skip": [], "failed": []}
    for path in paths:
        try:
            with open(path) as f:
                lines = f.read().splitlines()
        except OSError:
            lines = []
        if not lines:
            extra["failed"].append(path)
        for line in lines:
            kind, *rest = line.split("\t")
            if kind == "figure":
                figures[rest[0]] = {"id": rest[0], "unit": rest[1], "title": rest[2], "goals": [],
                                    "commands": {}, "samples": {"unvmm": {}, "peer": {}},
                                    "notes": []}
            elif kind == "goal":
                figures[rest[0]]["goals"].append((rest[1], float(rest[2])))
            elif kind == "command":
                figures[rest[0]]["commands"][rest[1]] = rest[2]
            elif kind == "sample":
                figures[rest[0]]["samples"][rest[1]][int(rest[2])] = float(rest[3])
            elif kind == "note":
                figures[rest[0]]["notes"].append(rest[1])
            elif kind == "machine":
                extra["machine"][rest[0]] = rest[1]
            else:
                extra[kind].append(f"{os.path.basename(os.path.dirname(path))[:-4]}: "
                                   + " ".join(rest))
    return figures, extra


def evaluate(figure, quick):
    values = {side: list(v.values()) for side, v in figure["samples"].items() if v}
    result = {side: summary(v) for side, v in values.items()}
    if len(values) == 2:
        paired = ratios(figure["samples"]["unvmm"], figure["samples"]["peer"])
        if paired:
            result["ratio"] = summary(paired)
    goals = []
    for what, limit in figure.pop("goals"):
        of = "ratio" if what.startswith("ratio") else "unvmm"
        reach = what.endswith("-reach")
        goal = {"of": of, "limit": limit, "minimum": reach or what.endswith("-min")}
        goal["verdict"] = verdict(result[of], limit, goal["minimum"], reach, quick) \
            if of in result else "not measured"
        goals.append(goal)
    figure["result"], figure["verdicts"] = result, goals
    figure["samples"] = values


def plain(x):
    """For JSON, which has no infinity."""
    if isinstance(x, dict):
        return {k: plain(v) for k, v in x.items()}
    if isinstance(x, list):
        return [plain(v) for v in x]
    return "infinite" if isinstance(x, float) and math.isinf(x) else x


def show_number(x):
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def show(figure):
    print(f"\n{figure['id']}: {figure['title']}")
    goals = {}
    for g in figure["verdicts"]:
        text = f"goal {'>=' if g['minimum'] else '<='} {show_number(g['limit'])}"
        goals.setdefault(g["of"], []).append(f"{text}: {g['verdict']}")
    for side, unit in (("unvmm", figure["unit"]), ("peer", figure["unit"]), ("ratio", "")):
        s = figure["result"].get(side)
        if s:
            spread = f"[{show_number(s['low'])}, {show_number(s['high'])}]" if s["n"] > 1 else ""
            print(f"  {side:<6}{show_number(s['median']):>9} {unit:<9}{spread:<20}n={s['n']:<4}"
                  f"{'; '.join(goals.pop(side, []))}".rstrip())
    for side, left in goals.items():
        print(f"  {side}: {'; '.join(left)}")
    for side, text in figure["commands"].items():
        print(f"  {side}: $ {text}")
    for text in figure["notes"]:
        print(f"  note: {text}")


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--quick", action="store_true")
    p.add_argument("--pairs", type=int, default=10)
    p.add_argument("--json", required=True)
    p.add_argument("records", nargs="+")
    args = p.parse_args()
    base = os.path.dirname(args.json)
    figures, extra = read_records([os.path.join(base, r) for r in args.records])
    here = {**machine(), **extra["machine"]}
    if os.getloadavg()[0] > os.cpu_count():
        here["load"] += " - busy: times are too long, intervals too wide"
    quick = args.quick or args.pairs < 6
    print("\n".join(f"{k:<9}{v}" for k, v in here.items()))
    print("Median, [95 % interval of the median], number of samples; ratio is unvmm / peer by pair.")
    for figure in figures.values():
        evaluate(figure, quick)
        show(figure)
    verdicts = [g["verdict"] for f in figures.values() for g in f["verdicts"]]
    for kind in ("skip", "failed"):
        for text in extra[kind]:
            print(f"\n{kind}: {text}")
    print("\n" + ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts))))
    with open(args.json, "w") as f:
        json.dump(plain({"machine": here, "quick": quick, "figures": list(figures.values()),
                         "skipped": extra["skip"], "failed": extra["failed"]}), f, indent=1)
        f.write("\n")
    bad = {"red", "not measured"} & set(verdicts)
    return 1 if bad or extra["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
