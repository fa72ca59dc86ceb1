"""A Prometheus of its own: it scrapes one cluster every second, and evaluates the alert rules with short times.

Knows nothing of faults and of the dashboard. Every figure that is returned came from the API of that process.
"""
import json
import re
import subprocess
import time
import urllib.parse
import urllib.request

from harness import ROOT, Failed

RULES = ROOT / "config" / "observability" / "alerts.yaml"
SCRAPE_S = 1
# Below this, one late scrape on a busy machine decides.
FOR_LEAST_S, WINDOW_LEAST_S = 3, 5
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
STARTS_WITHIN_S, ANSWERS_WITHIN_S = 30, 30


def shortened(text, factor):
    """The rules with each `for:` and each window of a range divided by `factor`. Thresholds stay."""
    def short(least_s):
        def replaced(found):
            seconds = max(least_s, round(int(found["n"]) * UNITS_S[found["unit"]] / factor))
            return f"{found['before']}{seconds}s{found['after']}"
        return replaced
    text = re.sub(r"(?m)(?P<before>^ *for: )(?P<n>\d+)(?P<unit>[smhd])(?P<after>)$", short(FOR_LEAST_S), text)
    return re.sub(r"(?P<before>\[)(?P<n>\d+)(?P<unit>[smhd])(?P<after>\])", short(WINDOW_LEAST_S), text)


def alert_names():
    return re.findall(r"- alert: (\w+)", RULES.read_text())


class Prometheus:
    """Runs from `with` to its end. Its data and its log are in `directory`."""

    def __init__(self, cluster, directory, port, factor):
        directory.mkdir()
        self.directory, self.url = directory, f"http://127.0.0.1:{port}"
        rules = shortened(RULES.read_text(), factor)
        (directory / "alerts.yaml").write_text(rules)
        label = {"cluster": "checked"}
        jobs = {"palisade-nodes": cluster.metrics_addresses(), "palisade-gateways": [cluster.gateway_metrics_address()]}
        (directory / "prometheus.yaml").write_text(json.dumps({  # JSON is YAML
            "global": {"scrape_interval": f"{SCRAPE_S}s", "scrape_timeout": f"{SCRAPE_S}s", "evaluation_interval": f"{SCRAPE_S}s"},
            "rule_files": ["alerts.yaml"],
            "scrape_configs": [{"job_name": job, "static_configs": [{"targets": targets, "labels": label}]}
                               for job, targets in jobs.items()]}))

    def __enter__(self):
        command = ["setpriv", "--pdeathsig", "KILL", "prometheus", f"--config.file={self.directory / 'prometheus.yaml'}",
                   f"--storage.tsdb.path={self.directory / 'data'}", f"--web.listen-address={self.url.removeprefix('http://')}",
                   "--log.level=warn"]
        with open(self.directory / "prometheus.log", "ab") as log:
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + STARTS_WITHIN_S
        while True:
            try:
                urllib.request.urlopen(f"{self.url}/-/ready", timeout=2)
                return self
            except OSError:
                if self.process.poll() is not None or time.monotonic() > deadline:
                    self.__exit__()
                    said = (self.directory / "prometheus.log").read_text()
                    raise Failed(f"Prometheus does not serve: {said[-500:]}") from None
                time.sleep(0.2)

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(STARTS_WITHIN_S)

    def ask(self, path, **query):
        """The `data` of an answer. A query that Prometheus refuses is `Failed`."""
        url = f"{self.url}/api/v1/{path}?{urllib.parse.urlencode(query)}"
        try:
            with urllib.request.urlopen(url, timeout=ANSWERS_WITHIN_S) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise Failed(f"{path} {query}: {error.read().decode(errors='replace')[-300:]}") from None

    def firing(self):
        """Names of the alerts that fire now, each with one of its summaries."""
        alerts = self.ask("alerts")["alerts"]
        return {alert["labels"]["alertname"]: alert["annotations"]["summary"] for alert in alerts if alert["state"] == "firing"}

    def broken_rules(self):
        """Rules that could not be evaluated, with the error."""
        rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        return {rule["name"]: rule.get("lastError", rule["health"]) for rule in rules if rule["health"] == "err"}

    def series(self, query, begin_s, end_s, step_s):
        """Labels and points `[time, value]` of each series of a range query."""
        found = self.ask("query_range", query=query, start=begin_s, end=end_s, step=step_s)["result"]
        return [(one["metric"], [[at, float(value)] for at, value in one["values"]]) for one in found]
