# SPDX-License-Identifier: Apache-2.0
"""Small pictures side by side, as text for gnuplot. Knows nothing of what is measured.

Linear axes begin at zero. A mark is a median, its whisker the interval of the median. A subject has
one colour and one mark wherever it appears: the colours are Okabe and Ito's, which can be told apart
by people who see fewer of them.
"""
import dataclasses
import subprocess

BLUE, VERMILLION, SKY, ORANGE, PURPLE, GREEN, YELLOW, BLACK = (
    "#0072B2", "#D55E00", "#56B4E9", "#E69F00", "#CC79A7", "#009E73", "#F0E442", "#000000")
PANEL = (430, 270)  # pixels
HEAD, FOOT = 40, 40
LABEL = 34  # pixels of a number above a bar
MANY = 20  # points of a line: then its marks are small
HOLLOW = (4, 6, 8, 10, 12)


@dataclasses.dataclass
class Series:
    name: str
    color: str
    rows: list  # of (x, median, low, high); x is a position, for stacks and bars a number of a group
    mark: int = 7  # of gnuplot; hollow ones are larger, so that a mark inside of them shows


@dataclasses.dataclass
class Panel:
    title: str
    ylabel: str
    series: list
    xlabel: str = ""
    kind: str = "lines"  # or bars, stack, dots
    groups: list = dataclasses.field(default_factory=list)  # names of the positions 0, 1, ...
    log_x: bool = False
    width: int = 0  # pixels between its axes, when it is drawn


def quoted(text):
    return '"' + text.replace("\\", "/").replace('"', "'").replace("\n", "\\n") + '"'


def wrapped(names, width):
    """Labels under an axis of so many pixels: cut at ": ", ", " or a blank where they are long."""
    room = width / 8 / max(len(names), 1) - 1
    out = []
    for name in names:
        for sep in (": ", ", ", " "):
            if max(map(len, name.split("\n"))) > room:
                name = name.replace(sep, sep.rstrip() + "\n")
        out.append(name)
    return out


def number(v):
    """As a label: three digits, no exponents below a million."""
    if v >= 1e6:
        return f"{v / 1e6:.3g} M"
    return f"{v:,.0f}" if v >= 100 else f"{v:.3g}"


def block(name, rows):
    lines = [" ".join(f"{v:.6g}" for v in row) for row in rows]
    return f"${name} << EOD\n" + "\n".join(lines) + "\nEOD\n"


def lines(p, data):
    plots = []
    for i, s in enumerate(p.series):
        data.append(block(f"d{i}", s.rows))
        size = 0.4 if len(s.rows) > MANY else 1.5 if s.mark in HOLLOW else 0.9
        plots.append(f"$d{i} using 1:2:3:4 with yerrorlines lw 2 pt {s.mark} ps {size} "
                     f"lc rgb '{s.color}' notitle")
    return plots[::-1]  # the first on top


def bars(p, data):
    width = 0.8 / max(len(p.series), 1)
    plots = []
    for i, s in enumerate(p.series):
        at = (i - (len(p.series) - 1) / 2) * width
        data.append(block(f"d{i}", [(x + at, *rest) for x, *rest in s.rows]))
        plots.append(f"$d{i} using 1:2:3:4:({width * 0.92}) with boxerrorbars fs solid 1 "
                     f"lc rgb '{s.color}' notitle")
    if len(p.groups) * len(p.series) * LABEL <= p.width or not any(r[1] for s in p.series for r in s.rows):
        rows = [f'{x + (i - (len(p.series) - 1) / 2) * width:.6g} {high:.6g} "{number(y)}"'
                for i, s in enumerate(p.series) for x, y, _, high in s.rows]
        data.append("$sum << EOD\n" + "\n".join(rows) + "\nEOD\n")
        plots.append("$sum using 1:2:3 with labels offset 0,0.6 font ',9' notitle")
    return plots


def stack(p, data):
    base, plots = {}, []
    for i, s in enumerate(p.series):
        rows = []
        for x, y, *_ in s.rows:
            rows.append((x, x - 0.3, x + 0.3, base.get(x, 0), base.get(x, 0) + y))
            base[x] = base.get(x, 0) + y
        data.append(block(f"d{i}", rows))
        plots.append(f"$d{i} using 1:(($4+$5)/2):2:3:4:5 with boxxyerror fs solid 1 border lc rgb "
                     f"'white' fc rgb '{s.color}' notitle")
    data.append("$sum << EOD\n" + "\n".join(f"{x} {y:.6g} \"{number(y)}\"" for x, y in base.items())
                + "\nEOD\n")
    plots.append("$sum using 1:2:3 with labels offset 0,0.7 font ',10' notitle")
    return plots


def dots(p, data):
    """One row for each group, values along a logarithmic axis with their number beside them."""
    plots = []
    for i, s in enumerate(p.series):
        data.append(f"$d{i} << EOD\n" + "\n".join(
            f"{y:.6g} {-x} {low:.6g} {high:.6g} \"{number(y)}\"" for x, y, low, high in s.rows)
            + "\nEOD\n")
        plots.append(f"$d{i} using 1:2:3:4 with xerrorbars pt {s.mark} ps 1.3 lw 2 "
                     f"lc rgb '{s.color}' notitle")
        plots.append(f"$d{i} using 1:2:5 with labels offset 0,0.9 font ',10' tc rgb 'black' notitle")
    return plots


KINDS = {"lines": lines, "bars": bars, "stack": stack, "dots": dots}


def axes(p):
    whiskers = "lw 1.5 lc rgb 'black'" if p.kind == "bars" else ""
    out = ["unset errorbars", f"set errorbars front {whiskers}", "set autoscale", "unset logscale",
           "set format", "set xtics auto", "set ytics auto",
           f"set title {quoted(p.title)} font ',12' offset 0,-0.4",
           f"set ylabel {quoted(p.ylabel)} offset 1,0", f"set xlabel {quoted(p.xlabel)} offset 0,0.4"]
    if p.kind == "dots":
        values = [v for s in p.series for row in s.rows for v in row[1:] if v > 0]
        out += ["set logscale x", f"set yrange [{-len(p.groups) + 0.4}:0.8]", "set format x '%.0s %c'",
                f"set xrange [{min(values) / 2:g}:{max(values) * 2:g}]",
                "set ytics (" + ", ".join(f"{quoted(g)} {-i}" for i, g in enumerate(p.groups)) + ")"]
        return out
    top = max([row[3] for s in p.series for row in s.rows] or [0])
    if p.kind == "stack":
        sums = {}
        for s in p.series:
            for x, y, *_ in s.rows:
                sums[x] = sums.get(x, 0) + y
        top = max(sums.values(), default=0)
    out.append(f"set yrange [0:{top * 1.12 if top else 1:g}]")
    if p.groups:
        names = enumerate(wrapped(p.groups, p.width))
        out += [f"set xrange [-0.6:{len(p.groups) - 0.4}]",
                "set xtics (" + ", ".join(f"{quoted(g)} {i}" for i, g in names) + ")"]
    elif p.log_x:
        at = sorted({row[0] for s in p.series for row in s.rows})
        out += ["set logscale x 2", f"set xrange [{at[0] / 1.3:g}:{at[-1] * 1.3:g}]",
                "set xtics (" + ", ".join(f"{v:g}" for v in at) + ")"]
    return out


def script(title, panels, columns, name, size=PANEL, legend=()):
    """The text for gnuplot, which writes NAME.svg and NAME.png; legend: Series, in their order."""
    rows = -(-len(panels) // columns)
    width, height = size[0] * columns, size[1] * rows + HEAD + FOOT
    data, body = [], []
    for i, p in enumerate(panels):
        x, y = i % columns / columns, (FOOT + (rows - 1 - i // columns) * size[1]) / height
        blocks = []
        p.width = size[0] - 110
        plots = KINDS[p.kind](p, blocks)
        data.append("".join(blocks).replace("$d", f"$p{i}d").replace("$sum", f"$p{i}sum"))
        body += [f"set origin {x:.4f},{y:.4f}", f"set size {1 / columns:.4f},{size[1] / height:.4f}",
                 *axes(p), "plot " + ", \\\n  ".join(plots).replace("$d", f"$p{i}d")
                 .replace("$sum", f"$p{i}sum") if plots else "clear"]
    if legend:
        body += ["set origin 0,0", f"set size 1,{FOOT / height:.4f}", "unset title", "unset xlabel",
                 "unset ylabel", "unset xtics", "unset ytics", "unset border", "unset logscale",
                 "unset grid", "set margins 0,0,0,0", "set xrange [0:1]", "set yrange [0:1]",
                 "set key at screen 0.5,screen 0.5 center center horizontal Left reverse samplen 1.5 width 1"
                 .replace("screen 0.5,screen 0.5", f"screen 0.5,screen {FOOT / 2 / height:.4f}"),
                 "plot " + ", ".join(f"NaN with points pt 5 ps 1.6 lc rgb '{s.color}' "
                                     f"title {quoted(s.name)}" for s in legend)]
    # Room for the names under an axis, which may take several lines.
    below = max(len(n.split("\n")) for p in panels for n in
                ["", *(wrapped(p.groups, size[0] - 110) if p.kind != "dots" else [])])
    font = "font 'DejaVu Sans,11'"
    pages = []
    for term in (f"svg size {width},{height} {font} noenhanced background 'white'",
                 f"pngcairo size {width},{height} {font} noenhanced background 'white'"):
        pages.append("\n".join([
            "reset", f"set terminal {term}", f"set output '{name}.{term[:3]}'",
            "set grid ytics lc rgb '#dddddd'", "set border 3", "set tics nomirror out", "unset key",
            "set lmargin 11" if not any(p.kind == "dots" for p in panels) else "set lmargin 38",
            "set rmargin 2", "set tmargin 2.2",
            f"set bmargin {2.4 + max(below, 1):.1f}",
            f"set multiplot title {quoted(title)} font ',14'", *body, "unset multiplot", ""]))
    return "\n".join(data) + "\n".join(pages)


def draw(text, folder, name):
    """Writes NAME.gp, NAME.svg and NAME.png there; false with a reason if gnuplot cannot."""
    path = f"{folder}/{name}.gp"
    with open(path, "w") as f:
        f.write(text)
    try:
        done = subprocess.run(["gnuplot", f"{name}.gp"], cwd=folder, capture_output=True, text=True,
                              timeout=120)
    except FileNotFoundError:
        return "gnuplot is not installed (package gnuplot-nox)"
    except subprocess.TimeoutExpired:
        return "gnuplot does not end"
    return "" if done.returncode == 0 else f"gnuplot: {done.stderr.strip()[:200]}"
