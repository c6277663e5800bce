# SPDX-License-Identifier: Apache-2.0
"""REPORT.md and its pictures, from the JSON of a run. Texts are in paper.toml; this file knows
which points (lib.sh) make which panel. A picture without points is named with the command that
would make it, and so is a goal that was not measured.
"""
import fnmatch
import json
import math
import os
import sys
import tomllib

import plot

# Who is compared: colour and mark of each wherever it appears.
SUBJECTS = {
    "vf": ("unvmm, function", plot.BLUE, 7),
    "qemu-vfio": ("QEMU vfio-pci", plot.VERMILLION, 4),
    "emulated": ("unvmm, emulated", plot.SKY, 9),
    "qemu-emulated": ("QEMU, emulated", plot.ORANGE, 11),
    "qemu-iothread": ("QEMU, emulated, iothread", plot.PURPLE, 13),
    "qemu-vhost": ("QEMU, vhost", plot.GREEN, 13),
    "unvmm": ("unvmm", plot.SKY, 9),
    "QEMU": ("QEMU", plot.ORANGE, 11),
    "microvm": ("QEMU microvm", plot.ORANGE, 11),
    "q35": ("QEMU q35", plot.PURPLE, 13),
}
FILLS = (plot.BLUE, plot.SKY, plot.GREEN, plot.YELLOW, plot.ORANGE, plot.VERMILLION, plot.PURPLE,
         "#882255", "#332288", "#999933", "#999999")
KINDS = {"tcp-tx": "TCP out", "tcp-rx": "TCP in", "udp-tx": "64B out", "udp-rx": "64B in",
         "echo": "echo"}


def subject(name):
    return SUBJECTS.get(name, (name, plot.BLACK, 6))


class Points:
    """The points of a run by plot, metric, subject."""

    def __init__(self, points):
        self.of = {}
        for p in points:
            of = self.of.setdefault((p["plot"], p["metric"]), {})
            of.setdefault(p["subject"], []).append((p["x"], p["median"], p["low"], p["high"]))

    def subjects(self, name, metric):
        """Known ones in their order, then the others in that of their records."""
        there = self.of.get((name, metric), {})
        return [s for s in SUBJECTS if s in there] + [s for s in there if s not in SUBJECTS]

    def lines(self, name, metric, scale=1):
        out = []
        for s in self.subjects(name, metric):
            label, color, mark = subject(s)
            rows = sorted((float(x), *(v * scale for v in rest)) for x, *rest in self.of[name, metric][s])
            out.append(plot.Series(label, color, rows, mark))
        return out

    def bars(self, name, metric, groups):
        """The same over names instead of numbers; groups: those that are wanted, in order."""
        out = []
        for s in self.subjects(name, metric):
            label, color, mark = subject(s)
            rows = sorted((groups.index(x), *rest) for x, *rest in self.of[name, metric][s]
                          if x in groups)
            if rows:
                out.append(plot.Series(label, color, rows, mark))
        return out

    def groups(self, name, metric):
        """All x of it, in the order of the records."""
        xs = [x for rows in self.of.get((name, metric), {}).values() for x, *_ in rows]
        return list(dict.fromkeys(xs))


# --- the pictures: each returns panels, columns and the legend -------------------------------------

def storage(points):
    panels = []
    cases = [(rw, q) for rw in ("randread-4k", "read-128k") for q in (1, 2)]
    for metric, label, scale in (("iops", "IOPS", 1), ("mean_us", "mean latency, ms", 1e-3),
                                 ("p99_us", "99 % latency, ms", 1e-3),
                                 ("cpu_us", "host CPU, us/IO", 1), ("exits", "user exits/IO", 1)):
        for rw, q in cases:
            series = points.lines(f"storage-{rw}-q{q}", metric, scale)
            queues = "1 queue" if q == 1 else f"{q} queues"
            if series:
                panels.append(plot.Panel(f"{rw.replace('-', ' ')}, {queues}", label, series,
                                         "requests in flight", log_x=True))
    columns = len({p.title for p in panels})
    return panels, columns or 1, panels[0].series if panels else []


def network(points):
    panels, legend = [], {}
    for name, where in (("network-tap", "tap"), ("network-function", "function")):
        for metric, title, label, kinds in (
                ("value", "TCP", "Mbit/s", ("tcp-tx", "tcp-rx")),
                ("value", "small packets", "packets/s", ("udp-tx", "udp-rx")),
                ("value", "round trip", "us", ("echo",)),
                ("cpu_us", "host CPU", "us/packet", ("udp-tx", "udp-rx", "echo")),
                ("exits", "user exits", "per packet", ("udp-tx", "udp-rx", "echo"))):
            kinds = [k for k in kinds if k in points.groups(name, metric)]
            series = points.bars(name, metric, kinds)
            legend.update((s.name, s) for s in series)
            if series:
                panels.append(plot.Panel(f"{where}: {title}", label, series,
                                         kind="bars", groups=[KINDS[k] for k in kinds]))
    return panels, 5, list(legend.values())


def scale(points):
    panels, legend = [], {}
    for metric, title, label in (
            ("memory_kib", "private memory without RAM", "KiB per guest"),
            ("idle_ms", "CPU at rest", "ms per guest in 10 s"),
            ("load_us", "CPU of the VMM's threads under load", "us per read"),
            ("threads", "threads, vCPU included", "per guest"),
            ("fds", "descriptors", "per guest")):
        groups = points.groups("scale", metric)
        groups.sort(key=int)
        series = points.bars("scale", metric, groups)
        legend.update((s.name, s) for s in series)
        if series:
            panels.append(plot.Panel(title, label, series, "guests", "bars", groups))
    return panels, min(3, len(panels)) or 1, list(legend.values())


def stacked(points, name, metric, order, title, label):
    """A bar for each subject; its parts are in that order and have a colour each."""
    there = points.of.get((name, metric), {})
    parts = sorted(points.groups(name, metric), key=order.index)
    series = [plot.Series(part, FILLS[order.index(part) % len(FILLS)],
                          [(at, *rest) for at, s in enumerate(there)
                           for x, *rest in there[s] if x == part])
              for part in parts]
    return plot.Panel(title, label, series, kind="stack", groups=list(there)) if series else None


# The parts of a pause in their order, as scenario migrate names them, and as a reader knows them.
PARTS = {"park": "vCPUs stop", "drain": "drain", "stop": "device stop", "program": "relay programmed",
         "sync": "disks synced", "save": "state saved", "ram": "last RAM", "state": "state loaded",
         "device-start": "device start", "start": "resume", "downtime": "QEMU: in all"}


def case_and_what(figure):
    """Of its ID, migrate-CASE-WHAT."""
    rest = figure["id"].removeprefix("migrate-")
    for what in sorted(PARTS, key=len, reverse=True):
        if rest.endswith("-" + what):
            return rest[:-len(what) - 1], what
    return rest.rpartition("-")[::2]


def migration_points(figures, points):
    """The figures of scenario migrate, arranged for the picture."""
    for f in figures.values():
        if f["scenario"] != "migrate" or not f["result"]:
            continue
        case, what = case_and_what(f)
        name = case.removeprefix("unvf-").replace("-", " ") + (" ms" if case.isdigit() else "")
        where = "testbed" if case.isdigit() else "kvm"
        for side in ("unvmm", "peer") if "unvmm" in f["result"] else ():
            r = f["result"].get(side)
            # A peer does not say what its downtime is made of.
            parts = what in PARTS and (what == "downtime") == (side == "peer")
            if not r or not (parts or what in ("client", "total", "bytes", "rate")):
                continue
            row = (r["median"], r["low"], r["high"])
            who = "unvmm" if side == "unvmm" else "QEMU"
            if parts:
                bar = f"{who}, {name}" if where == "testbed" else name
                of = points.of.setdefault((f"migrate-pause-{where}", "ms"), {})
                of.setdefault(bar, []).append((PARTS[what], *row))
            else:
                of = points.of.setdefault((f"migrate-{what}", "value"), {})
                of.setdefault(who, []).append((name, *row))
    for (name, metric), of in list(points.of.items()):
        if name.startswith("migrate-") and name.endswith("-curve"):
            for side, rows in of.items():
                limit = name.split("-")[1]
                who = f"{'QEMU' if side == 'peer' else side}, {limit} ms"
                points.of.setdefault(("migrate-curves", metric), {})[who] = rows


def migration(points):
    order = list(PARTS.values())
    panels = [stacked(points, f"migrate-pause-{where}", "ms", order, title, "ms")
              for where, title in (("testbed", "testbed: pause in parts, by limit of the downtime"),
                                   ("kvm", "/dev/kvm and unvf: pauses in parts"))]
    legend = {s.name: s for p in panels if p for s in p.series}
    for what, title, label in (("client", "testbed: pause that a client of the disk sees", "ms"),
                               ("total", "testbed: total time", "ms"), ("bytes", "testbed: sent", "MiB"),
                               ("rate", "/dev/kvm: I/O rate during pre-copy", "of that before")):
        groups = points.groups(f"migrate-{what}", "value")
        series = points.bars(f"migrate-{what}", "value", groups)
        panels.append(plot.Panel(title, label, series, kind="bars", groups=groups) if series else None)
    curves = points.lines("migrate-curves", "rate")
    for s in curves:
        s.color = plot.SKY if s.name.startswith("unvmm") else plot.ORANGE
        s.mark = 7 if "20 ms" in s.name else 5
    # One picture for each limit, else they hide each other.
    for limit in dict.fromkeys(s.name.partition(", ")[2] for s in curves):
        panels.append(plot.Panel(f"testbed: a client's writes across a move, limit {limit}", "per second",
                                 [s for s in curves if s.name.endswith(", " + limit)],
                                 "seconds since the start of the move"))
    sides = [plot.Series(subject(s)[0], subject(s)[1], []) for s in ("unvmm", "QEMU")]
    return [p for p in panels if p], 2, list(legend.values()) + (sides if panels[2] or curves else [])


def boot(points):
    panels, legend = [], {}
    for name, title, label in (("start", "exec to the first byte of a micro-guest", "ms"),
                               ("boot", "exec to user space of Linux, testbed", "s"),
                               ("memory", "private memory, RAM not counted", "KiB")):
        groups = points.groups(name, "value")
        series = points.bars(name, "value", groups)
        legend.update((s.name, s) for s in series)
        if series:
            panels.append(plot.Panel(title, label, series, kind="bars", groups=groups))
    return panels, len(panels) or 1, list(legend.values())


def cost(points):
    there = [row for of in points.of.get(("cost", "cycles"), {}).values() for row in of]
    groups = [x for x, *_ in sorted(there, key=lambda row: row[1])]
    rows = [(groups.index(x), *rest) for x, *rest in there]
    if not rows:
        return [], 1, []
    return [plot.Panel("", "", [plot.Series("", plot.BLUE, sorted(rows))], "cycles (logarithmic)",
                       "dots", groups)], 1, []


PICTURES = {"storage": storage, "network": network, "scale": scale, "migration": migration,
            "boot": boot, "cost": cost}
SIZES = {"storage": (330, 215), "network": (300, 270), "scale": (460, 290), "migration": (720, 340),
         "boot": (470, 320), "cost": (1000, 520)}


def draw(name, title, points, folder):
    """The files of a picture; a reason instead if there is none."""
    panels, columns, legend = PICTURES[name](points)
    if not panels:
        return None, "not measured in this run"
    text = plot.script(title, panels, columns, name, SIZES[name], legend)
    return panels, plot.draw(text, folder, name)


# --- the text --------------------------------------------------------------------------------------

def number(v):
    if not isinstance(v, (int, float)):
        return str(v)
    if v == int(v) and abs(v) < 1e6:
        return f"{v:.0f}"
    return f"{v:.0f}" if abs(v) >= 1000 else f"{v:.3g}"


def result(s, unit=""):
    if not s:
        return ""
    spread = f" [{number(s['low'])}, {number(s['high'])}]" if s["n"] > 1 else ""
    return f"{number(s['median'])}{' ' + unit if unit else ''}{spread}"


def distance(goal, s):
    """How far the median is from the limit, in words."""
    median, limit = s["median"], goal["limit"]
    if goal["kind"] == "all":
        return f"largest {number(s['max'])}, each is to be <= {number(limit)}"
    text = f"{'>=' if goal['minimum'] else '<='} {number(limit)}"
    if isinstance(median, str) or not limit:
        return f"goal {text}"
    over = (median / limit - 1) * 100
    side = "at" if abs(over) < 0.5 else f"{abs(over):.0f} % {'above' if over > 0 else 'below'}"
    return f"goal {text}, median {side} it" if side == "at" else f"goal {text}, median {side}"


def command_of(goal_or_picture):
    return f"tests/bench/run {goal_or_picture['scenario']}".rstrip()


def goal_line(goal, figures):
    """Verdict and numbers of one must-reach."""
    rows = []
    for f in figures.values():
        if any(fnmatch.fnmatchcase(f["id"], p) for p in goal["figures"]):
            rows += [(g["verdict"], f, g) for g in f["verdicts"]] or [("printed", f, None)]
    if not rows:
        return "not measured", f"not measured in this run: `{command_of(goal)}`"
    order = ("red", "not measured", "undecided", "quick: not a verdict", "green", "printed")
    verdict = min((v for v, _, _ in rows), key=order.index)
    counts = ", ".join(f"{sum(v == o for v, _, _ in rows)} {o}" for o in order
                       if any(v == o for v, _, _ in rows))
    worst = [r for r in rows if r[0] == verdict] if verdict not in ("green",) else rows
    texts = []
    for _, f, g in worst:
        s = f["result"].get(g["of"] if g else "unvmm")
        text = f"{f['id']}: " + (result(s, f["unit"] if not g or g["of"] == "unvmm" else "of the peer's")
                                 if s else "no sample")
        texts.append(text + (f" ({distance(g, s)})" if g and s and verdict != "green" else ""))
    shown = texts[:6] + ([f"and {len(texts) - 6} more"] if len(texts) > 6 else [])
    if verdict not in ("green", "printed") and goal.get("reason"):
        shown.append(goal["reason"])
    return verdict, (f"{counts}. " if len(rows) > 1 else "") + "; ".join(shown)


def cell(text):
    return str(text).replace("|", "\\|")


def table(head, rows):
    return ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)] + \
        ["| " + " | ".join(cell(c) for c in row) + " |" for row in rows] + [""]


def panel_table(panels):
    """What a picture shows, as numbers."""
    rows = []
    for p in panels:
        for s in p.series:
            if len(s.rows) > plot.MANY:
                rows.append((p.title, s.name, f"{len(s.rows)} points", "in bench.json", p.ylabel))
                continue
            for x, y, low, high in s.rows:
                at = p.groups[round(x)] if p.groups else f"{x:g}"
                rows.append((p.title, s.name, at, number(y) + ("" if low == high == y else
                             f" [{number(low)}, {number(high)}]"), p.ylabel))
    return table(("panel", "subject", "at", "median", "unit"), rows)


def figure_rows(figures):
    rows = []
    for f in figures:
        verdicts = "; ".join(f"{'>=' if g['minimum'] else '<='} {number(g['limit'])}: {g['verdict']}"
                             for g in f["verdicts"])
        r = f["result"]
        rows.append((f"`{f['id']}`", f["title"], f["unit"], result(r.get("unvmm")), result(r.get("peer")),
                     result(r.get("ratio")), verdicts))
    return rows


def commands(run):
    """Each command once, with the figures that it made."""
    by = {}
    for f in run["figures"]:
        for side, text in f["commands"].items():
            by.setdefault((side, text), []).append(f["id"])
    out = []
    for (side, text), ids in by.items():
        shown = ", ".join(ids[:4]) + (f" and {len(ids) - 4} more" if len(ids) > 4 else "")
        out += [f"- {side}: {shown}", "", f"      {text}", ""]
    return out


def report(run, paper, folder):
    points, figures = Points(run["points"]), {f["id"]: f for f in run["figures"]}
    migration_points(figures, points)
    out = ["# The evaluation, reproduced", "", f"Made by `{run['command']}`"
           + (" (quick: it shows that everything works; nothing here is a verdict)" if run["quick"] else "")
           + ". Medians with the interval that holds the median with at least 95 % (fewer than 6 samples: "
           "smallest to largest). A ratio is taken within a pair of runs, unvmm's by the peer's.", ""]
    out += table(("machine", ""), run["machine"].items())
    out += ["## What must be reached", ""]
    rows = [(g["group"], g["text"], *goal_line(g, figures)) for g in paper["goal"]]
    rows += [("bench", f"scenario {t.split(':')[0]} runs to its end", "red", t.partition(': ')[2])
             for t in run["failed"]]
    verdicts = [r[2] for r in rows]
    out += [", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(sorted(verdicts))) + ".", ""]
    out += table(("of", "goal", "verdict", "measured"), [(g, t, f"**{v}**", m) for g, t, v, m in rows])
    for pic in paper["picture"]:
        panels, problem = draw(pic["name"], f"{pic['id']} {pic['title']}", points, folder)
        command = command_of(pic)
        out += [f"## {pic['id']} {pic['title']}", "", f"Supports: {pic['claim']}", ""]
        if panels is None:
            out += [f"{problem[0].upper()}{problem[1:]}: `{command}`.", ""]
            continue
        if problem:
            out += [f"No picture: {problem}. The numbers are below.", ""]
        else:
            out += [f"![{pic['id']}]({pic['name']}.svg)", "",
                    f"Also as [PNG]({pic['name']}.png); drawn by [{pic['name']}.gp]({pic['name']}.gp).", ""]
        out += [f"What this can show: {pic['can']}", "", f"What it cannot: {pic['cannot']}", "",
                f"Made by `{command}`.", "", "<details><summary>The numbers</summary>", "",
                *panel_table(panels), "</details>", ""]
    out += ["## Everything that was measured", ""]
    out += table(("figure", "of", "unit", "unvmm", "peer", "ratio", "goal"), figure_rows(run["figures"]))
    notes = [f"- `{f['id']}`: {n}" for f in run["figures"] for n in f["notes"]]
    if notes:
        out += ["## Notes", "", *notes, ""]
    if run["skipped"]:
        out += ["## Skipped", "", *[f"- {t}" for t in run["skipped"]], ""]
    if run["seconds"]:
        out += ["## Time", ""] + table(("scenario", "planned, s", "taken, s"),
                                       [(k, *v) for k, v in run["seconds"].items()])
    out += ["## Commands", "", *commands(run)]
    return "\n".join(out).rstrip() + "\n"


PAPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "paper.toml")


def read_paper(path=PAPER):
    with open(path, "rb") as f:
        return tomllib.load(f)


def write(run, folder, paper=PAPER):
    """REPORT.md and the pictures in that folder."""
    text = report(run, read_paper(paper), folder)
    with open(os.path.join(folder, "REPORT.md"), "w") as f:
        f.write(text)


if __name__ == "__main__":
    with open(sys.argv[1]) as json_file:
        write(json.load(json_file), os.path.dirname(sys.argv[1]) or ".")
