"""Draws an evaluated dashboard as one page, in the dashboard's own layout: draw.py DATA.json PAGE.png

Needs matplotlib. What it shows is what Grafana would: panels in 24 columns, values in the panel's unit, alerts as red lines.
"""
import json
import sys
from datetime import datetime, timezone

import matplotlib

matplotlib.use("Agg")
from matplotlib import dates, pyplot  # noqa: E402
from matplotlib.ticker import FuncFormatter, MaxNLocator  # noqa: E402

COLUMNS, INCH_PER_COLUMN, INCH_PER_ROW = 24, 0.75, 0.42


def scaled(value, steps):
    """`value` in the largest of `(factor, name)` that is not above it."""
    factor, name = next(((factor, name) for factor, name in steps if abs(value) >= factor), steps[-1])
    return f"{value / factor:.3g} {name}".strip()


def formatted(value, unit):
    if value == 0:
        return "0"
    if unit == "s":
        return scaled(value, [(86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "µs")])
    if unit == "bytes":
        return scaled(value, [(1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")])
    if unit == "percentunit":
        return f"{100 * value:.3g} %"
    number = scaled(value, [(1e9, "G"), (1e6, "M"), (1e3, "k"), (1, "")]) if abs(value) >= 1_000 else f"{value:.3g}"
    return f"{number} {dict(ops='ops/s', cps='c/s', d='d').get(unit, '')}".strip()


def all_series(panel):
    return [series for query in panel["queries"] for series in query["series"]]


def stat(axes, panel):
    axes.axis("off")
    axes.set_title(panel["title"], fontsize=9, loc="left")
    shown = all_series(panel)
    for n, series in enumerate(shown):
        value = series["points"][-1][1]
        reached = [step["color"] for step in panel["steps"] if step["value"] is None or value >= step["value"]]
        at = (n + 1) / (len(shown) + 1)
        axes.text(at, 0.3, formatted(value, panel["unit"]), color=reached[-1], ha="center", va="bottom", fontsize=22)
        axes.text(at, 0.3, series["legend"], ha="center", va="top", fontsize=8)


def timeseries(axes, panel, page):
    axes.set_title(panel["title"], fontsize=9, loc="left")
    shown = all_series(panel)
    for series in shown:
        # A gap is a gap.
        times, values = [], []
        for at, value in series["points"]:
            if times and at - times[-1].timestamp() > 1.5 * page["step_s"]:
                times.append(moment(at - page["step_s"]))
                values.append(float("nan"))
            times.append(moment(at))
            values.append(value)
        axes.plot(times, values, linewidth=0.9, label=series["legend"])
    if not shown:
        axes.text(0.5, 0.5, "no data", transform=axes.transAxes, ha="center", color="gray")
    axes.set_xlim(moment(page["begin_s"]), moment(page["end_s"]))
    highest = max((value for series in shown for _, value in series["points"]), default=0)
    axes.set_ylim(bottom=panel["min"], top=panel["max"] or (panel["soft_max"] if highest < (panel["soft_max"] or 0) else None))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=panel["decimals"] == 0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: formatted(value, panel["unit"])))
    axes.xaxis.set_major_locator(dates.AutoDateLocator(maxticks=6))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M:%S"))
    axes.tick_params(labelsize=6)
    axes.grid(alpha=0.25)
    if shown:
        axes.legend(fontsize=5.5, loc="upper center", bbox_to_anchor=(0.5, -0.1), ncol=4 if panel["grid"]["w"] > 6 else 2, frameon=False, columnspacing=1)
    for alert in page["annotations"]:
        axes.axvline(moment(alert["points"][0][0]), color="red", linewidth=0.3, alpha=0.5)


def moment(seconds):
    return datetime.fromtimestamp(seconds, timezone.utc)


def draw(page, path):
    rows = max(panel["grid"]["y"] + panel["grid"]["h"] for panel in page["panels"])
    figure = pyplot.figure(figsize=(COLUMNS * INCH_PER_COLUMN, rows * INCH_PER_ROW), dpi=100)
    for panel in page["panels"]:
        grid = panel["grid"]
        left, top = grid["x"] / COLUMNS, 1 - grid["y"] / rows
        wide, high = grid["w"] / COLUMNS, grid["h"] / rows
        if panel["type"] == "row":
            figure.text(left + 0.01, top - high / 2, panel["title"], fontsize=12, weight="bold", va="center")
            continue
        axes = figure.add_axes([left + 0.035, top - 0.74 * high, wide - 0.045, 0.6 * high])
        stat(axes, panel) if panel["type"] == "stat" else timeseries(axes, panel, page)
    figure.savefig(path)


if __name__ == "__main__":
    with open(sys.argv[1]) as data:
        draw(json.load(data), sys.argv[2])
