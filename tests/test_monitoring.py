"""Dashboard and alert rules: they are right, and name metrics that the server has."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.process import CHECKOUT, ServerProcess
from tests.test_admin import Admin, wait_until

RULES = CHECKOUT / "conf/prometheus-alerts.yaml"
DASHBOARD = CHECKOUT / "conf/grafana-dashboard.json"

# What a rule or a panel asks for: a metric with its labels.
_SELECTOR = re.compile(r"(vmw_metadata_\w+)(?:\{([^}]*)\})?")


def rules() -> list[dict[str, Any]]:
    return [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> Iterator[str]:
    yield from (rule["expr"] for rule in rules())
    yield from (target["expr"] for panel in panels() for target in panel["targets"])


@pytest.fixture(scope="module")
def exposed(instances: Path) -> Iterator[str]:
    server = ServerProcess(instances, "--catalogue")
    admin = Admin(server)
    wait_until(lambda: admin.json("/api/faults")["state"] == "complete")
    yield admin.request("/metrics")[1].decode()
    server.end()


def test_every_metric_that_is_asked_for_exists(exposed: str) -> None:
    names = {name for expression in expressions() for name, _ in _SELECTOR.findall(expression)}
    assert len(names) > 20
    has = set(re.findall(r"^(vmw_metadata_\w+)", exposed, re.MULTILINE)) | set(
        re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE)
    )
    assert names - has == set()


def test_every_label_value_that_a_rule_names_exists(exposed: str) -> None:
    for rule in rules():
        for name, labels in _SELECTOR.findall(rule["expr"]):
            for label, values in re.findall(r'(\w+)=~?"([^"$]*)"', labels):
                for value in values.split("|"):
                    assert re.search(rf'^{name}{{.*\b{label}="{value}"', exposed, re.MULTILINE)


def test_every_metric_is_on_the_dashboard(exposed: str) -> None:
    shown = DASHBOARD.read_text()
    names = re.findall(r"^# TYPE (vmw_metadata_\w+)", exposed, re.MULTILINE)
    assert [name for name in names if name not in shown] == ["vmw_metadata_start_time_seconds"]


def test_every_alert_is_in_the_operations_document() -> None:
    text = (CHECKOUT / "docs/operations.md").read_text()
    assert [rule["alert"] for rule in rules() if f"### {rule['alert']}\n" not in text] == []


def test_promtool_finds_no_fault_in_the_rules(program: Callable[[str, str], str]) -> None:
    promtool = program("promtool", "prometheus")
    ended = subprocess.run([promtool, "check", "rules", RULES], capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_promtool_finds_no_fault_in_the_queries_of_the_dashboard(
    program: Callable[[str, str], str], tmp_path: Path
) -> None:
    queries = [target["expr"] for panel in panels() for target in panel["targets"]]
    rules = [
        {"record": f"panel:{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries)
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    command = [program("promtool", "prometheus"), "check", "rules", file]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr + ended.stdout


def test_promtool_finds_no_fault_in_the_metrics(
    program: Callable[[str, str], str], exposed: str
) -> None:
    command = [program("promtool", "prometheus"), "check", "metrics"]
    ended = subprocess.run(command, input=exposed, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout + ended.stderr) == (0, "")


def test_panels_do_not_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells


def test_alerts_fire_when_they_should(program: Callable[[str, str], str], tmp_path: Path) -> None:
    """Prometheus' own unit test of rules: VMs that got nothing, and a server that is away."""
    series = [
        ('up{job="vmw-metadata", instance="a"}', "0x30"),
        ('vmw_metadata_machines_in_trouble{instance="a", state="failed"}', "3x30"),
        ('vmw_metadata_requests_total{instance="a", outcome="timeout"}', "0+1x30"),
    ]
    expected = {
        "VmwMetadataDown": {"job": "vmw-metadata", "instance": "a", "severity": "critical"},
        "VmwMetadataVmsGotNothing": {"instance": "a", "state": "failed", "severity": "warning"},
        "VmwMetadataLookupsFail": {"instance": "a", "severity": "critical"},
    }
    notes = {rule["alert"]: rule["annotations"] for rule in rules()}
    tests = [
        {"eval_time": "20m", "alertname": name, "exp_alerts": [{"exp_labels": labels}]}
        for name, labels in expected.items()
    ]
    for one in tests:
        told = notes[one["alertname"]]
        text = told["summary"].replace("{{ $labels.instance }}", "a")
        alert = one["exp_alerts"][0]
        alert["exp_annotations"] = told | {"summary": text.replace("{{ $value }}", "3")}
    file = tmp_path / "test.yaml"
    scene = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series],
        "alert_rule_test": tests,
    }
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": [scene]}))
    command = [program("promtool", "prometheus"), "test", "rules", file]
    ended = subprocess.run(command, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stdout + ended.stderr
