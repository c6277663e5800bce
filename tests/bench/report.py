#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Turns the records of the scenarios (lib.sh says what they are) into a table, JSON, and by
figures.py into REPORT.md with its pictures.

The interval of a median is the one between two order statistics that holds it with at least 95 %,
whatever the distribution; with fewer than 6 samples it is minimum to maximum. A ratio is taken
within each pair, so what slows both sides of a pair down does not count. A goal is met (green) or
missed (red) only if the whole interval is on one side of it; else it is undecided. A scenario that
failed, and a line that is no record, are red too; the rest of the run is shown all the same.
"""
import argparse
import datetime
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys

import figures


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
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC"),
        "cpu": f"{model.group(1) if model else platform.machine()}, {os.cpu_count()} CPUs, {memory:.0f} GiB",
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
            "max": max(values), "coverage": cover}


def verdict(values, kind, limit, quick):
    """kind: "" (at most), min, all or reach, see lib.sh."""
    s = summary(values)
    if quick:
        return "quick: not a verdict"
    if kind == "all":
        return "green" if max(values) <= limit else "red"
    if kind == "reach":
        return "green" if s["high"] >= limit else "red"
    met = [v >= limit if kind == "min" else v <= limit for v in (s["low"], s["high"])]
    return "green" if all(met) else "undecided" if any(met) else "red"


def ratios(unvmm, peer):
    """Of the pairs that have both sides. A peer that counts 0: equal, or beyond any limit."""
    both = sorted(unvmm.keys() & peer.keys())
    return [unvmm[p] / peer[p] if peer[p] else (math.inf if unvmm[p] else 1.0) for p in both]


def number(text):
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


class Records:
    def __init__(self):
        self.figures, self.points, self.machine = {}, {}, {}
        self.notes, self.skip, self.failed, self.seconds = [], [], [], {}

    def take(self, scenario, kind, *rest):
        if kind == "figure":
            self.figures[rest[0]] = {
                "id": rest[0], "unit": rest[1], "title": rest[2], "scenario": scenario, "goals": [],
                "commands": {}, "samples": {"unvmm": {}, "peer": {}}, "notes": []}
        elif kind == "goal":
            self.figures[rest[0]]["goals"].append((rest[1], float(rest[2])))
        elif kind == "command":
            self.figures[rest[0]]["commands"][rest[1]] = rest[2]
        elif kind == "sample":
            self.figures[rest[0]]["samples"][rest[1]][int(rest[2])] = number(rest[3])
        elif kind == "note":
            self.notes.append((rest[0], rest[1]))
        elif kind == "point":
            self.points.setdefault(rest[:4], []).append(number(rest[4]))
        elif kind == "curve":
            self.curve(*rest)
        elif kind == "machine":
            self.machine[rest[0]] = rest[1]
        elif kind == "seconds":
            self.seconds[scenario] = [int(v) for v in rest]
        elif kind in ("skip", "failed"):
            getattr(self, kind).append(f"{scenario}: {' '.join(rest)}")
        else:
            raise KeyError(kind)

    def curve(self, figure, side, pair, step_ms, before_ms, counts):
        """Points of its plot; only of the first pair, for each has its own times."""
        if int(pair) != 1:
            return
        for i, count in enumerate(counts.split()):
            at = (i * int(step_ms) - int(before_ms)) / 1000
            rate = number(count) * 1000 / int(step_ms)
            self.points[f"{figure}-curve", side, f"{at:g}", "rate"] = [rate]

    def read(self, path):
        scenario = os.path.basename(os.path.dirname(path))[:-len(".out")]
        try:
            with open(path, errors="replace") as f:
                lines = f.read().splitlines()
        except OSError:
            lines = []
        if not lines:
            self.failed.append(f"{scenario}: it recorded nothing")
        for n, line in enumerate(lines, 1):
            try:
                self.take(scenario, *line.split("\t"))
            except (KeyError, IndexError, ValueError, TypeError):
                self.failed.append(f"{scenario}: line {n} is no record: {line[:80]!r}")


def evaluate(figure, quick):
    """Puts results and verdicts into it."""
    values = {side: list(v.values()) for side, v in figure["samples"].items() if v}
    result = {side: summary(v) for side, v in values.items()}
    paired = []
    if len(values) == 2:
        paired = ratios(figure["samples"]["unvmm"], figure["samples"]["peer"])
        if paired:
            result["ratio"] = summary(paired)
    goals = []
    for what, limit in figure.pop("goals"):
        of, _, kind = what.partition("-")
        of = "unvmm" if of == "value" else of
        known = paired if of == "ratio" else values.get(of)
        goals.append({"of": of, "limit": limit, "kind": kind, "minimum": kind in ("min", "reach"),
                      "verdict": verdict(known, kind, limit, quick) if known else "not measured"})
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
    if isinstance(x, str):
        return x
    return f"{x:.0f}" if abs(x) >= 1000 else f"{x:.3g}"


def show(figure):
    print(f"\n{figure['id']}: {figure['title']}")
    goals = {}
    for g in figure["verdicts"]:
        text = f"goal {'>=' if g['minimum'] else '<='} {show_number(g['limit'])}"
        if g["kind"] == "all" and g["of"] in figure["result"]:
            text = f"largest {show_number(figure['result'][g['of']]['max'])}, {text}"
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


def run_of(args):
    """The whole run, as JSON has it."""
    records = Records()
    for path in args.records:
        records.read(os.path.join(os.path.dirname(args.json), path))
    for name, text in records.notes:  # which may come before their figure
        if name in records.figures:
            records.figures[name]["notes"].append(text)
        else:
            records.failed.append(f"a note on {name}, which is no figure: {text}")
    here = {**machine(), **records.machine}
    if os.getloadavg()[0] > os.cpu_count():
        here["load"] += " - busy: times are too long, intervals too wide"
    quick = args.quick or args.pairs < 6
    for figure in records.figures.values():
        evaluate(figure, quick)
    points = [{"plot": plot, "subject": subject, "x": x, "metric": metric, **summary(values)}
              for (plot, subject, x, metric), values in records.points.items()]
    return plain({"machine": here, "command": args.command, "quick": quick,
                  "figures": list(records.figures.values()), "points": points,
                  "skipped": records.skip, "failed": records.failed, "seconds": records.seconds})


def show_run(run):
    print("\n".join(f"{k:<9}{v}" for k, v in run["machine"].items()))
    print("Median, [95 % interval of the median], number of samples; ratio is unvmm / peer by pair.")
    for figure in run["figures"]:
        show(figure)
    for kind in ("skipped", "failed"):
        for text in run[kind]:
            print(f"\n{kind}: {text}")
    verdicts = [g["verdict"] for f in run["figures"] for g in f["verdicts"]]
    verdicts += ["red"] * len(run["failed"])
    print("\n" + ", ".join(f"{verdicts.count(v)} {v}" for v in sorted(set(verdicts))))
    return 1 if {"red", "not measured"} & set(verdicts) else 0


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--quick", action="store_true")
    p.add_argument("--pairs", type=int, default=10)
    p.add_argument("--command", default="tests/bench/run")
    p.add_argument("--json", required=True)
    p.add_argument("records", nargs="+")
    args = p.parse_args()
    run = run_of(args)
    status = show_run(run)
    with open(args.json, "w") as f:
        json.dump(run, f, indent=1)
        f.write("\n")
    figures.write(run, os.path.dirname(args.json) or ".")
    return status


if __name__ == "__main__":
    sys.exit(main())
