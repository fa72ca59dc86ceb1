"""What each panel of the dashboard shows: every query, asked of a live Prometheus.

Knows nothing of faults and of drawing.
"""
import json
import re

from harness import ROOT

DASHBOARD = ROOT / "config" / "observability" / "dashboard.json"
POINTS = 300


def evaluated(prometheus, begin_s, end_s, scrape_s):
    """The dashboard over a span, as what draw.py reads: each panel with its series."""
    step_s = max(1, round((end_s - begin_s) / POINTS))
    # As Grafana does it.
    interval_s = max(step_s + scrape_s, 4 * scrape_s)
    dashboard = json.loads(DASHBOARD.read_text())
    panels = [panel_of(prometheus, panel, begin_s, end_s, step_s, interval_s) for panel in dashboard["panels"]]
    annotations = [{"name": labels["alertname"], "points": points}
                   for one in dashboard["annotations"]["list"] if "expr" in one
                   for labels, points in prometheus.series(one["expr"], begin_s, end_s, step_s)]
    return {"title": dashboard["title"], "begin_s": begin_s, "end_s": end_s, "step_s": step_s, "panels": panels,
            "annotations": annotations}


def panel_of(prometheus, panel, begin_s, end_s, step_s, interval_s):
    queries = []
    for target in panel.get("targets", []):
        query = target["expr"].replace("$__rate_interval", f"{interval_s}s").replace("$cluster", ".*")
        found = prometheus.series(query, begin_s, end_s, step_s)
        # A histogram without observations has quantiles that are no numbers.
        series = [{"legend": legend(target["legendFormat"], labels), "points": [point for point in points if point[1] == point[1]]}
                  for labels, points in found]
        queries.append({"expr": target["expr"], "legend": target["legendFormat"],
                        "series": [one for one in series if one["points"]]})
    defaults = panel.get("fieldConfig", {}).get("defaults", {})
    return {"title": panel["title"], "type": panel["type"], "grid": panel["gridPos"], "unit": defaults.get("unit", "short"),
            "min": defaults.get("min"), "max": defaults.get("max"), "soft_max": defaults.get("custom", {}).get("axisSoftMax"),
            "decimals": defaults.get("decimals"), "steps": defaults.get("thresholds", {}).get("steps", []),
            "queries": queries}


def legend(form, labels):
    return re.sub(r"\{\{ *(\w+) *\}\}", lambda found: labels.get(found[1], ""), form)


def empty(evaluated_dashboard):
    """Panel and legend of each query without a single value."""
    return [(panel["title"], query["legend"]) for panel in evaluated_dashboard["panels"] for query in panel["queries"]
            if not query["series"]]
