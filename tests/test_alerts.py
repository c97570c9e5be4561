"""Each alert fires while its cause lasts, and ends with it: Prometheus' own test of rules."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from tests.process import CHECKOUT
from tests.test_monitoring import RULES, rules

SCRAPES_S = 30
MINUTES = 180  # of each play
GONE = 60  # the minute in which the cause is gone
LASTING = (50, 130)  # the minutes in which an alert fires, and does not
ONE_EVENT = (21, 26, 31, 40, 79, 130)


class Play(NamedTuple):
    """A metric whose values are one thing while the cause lasts, and another one afterwards."""

    series: str
    bad: float | str  # the value, or "+N": a counter that grows so much with each scrape
    good: float | str


def gauge(series: str, bad: float = 3, good: float = 0) -> list[Play]:
    return [Play(series, bad, good)]


def counter(series: str) -> list[Play]:
    return [Play(series, "+1", "+0")]


SINCE = 1_700_000_000
_BUCKETS = [("1.0", "+0"), ("10.0", "+0"), ("30.0", "+1"), ("+Inf", "+1")]


def slow(metric: str) -> list[Play]:
    return [Play(f'{metric}{{le="{bound}"}}', bad, "+0") for bound, bad in _BUCKETS]


PLAYS: dict[str, list[Play]] = {
    "Down": gauge('up{job="vmw-metadata"}', 0, 1),
    "NotReady": gauge("vmw_metadata_ready", 0, 1),
    "SourceFails": gauge('vmw_metadata_source_failing_since_seconds{source="sql"}', SINCE),
    "FleetOutOfReach": gauge("vmw_metadata_fleet_failing_since_seconds", SINCE),
    "VcenterOutOfReach": gauge("vmw_metadata_vcenter_failing_since_seconds", SINCE),
    "WebhooksRefused": counter('vmw_metadata_webhooks_total{outcome="refused"}'),
    "VmsGotNothing": gauge('vmw_metadata_machines_in_trouble{state="failed"}'),
    "BootsFail": gauge('vmw_metadata_machines_in_trouble{state="broken"}'),
    "NoOutcome": gauge("vmw_metadata_machines_without_outcome"),
    "OutcomeHooksFail": gauge("vmw_metadata_outcome_hooks_oldest_seconds", 1000),
    "LookupsFail": counter('vmw_metadata_requests_total{outcome="timeout"}'),
    "LastGoodAnswers": gauge("vmw_metadata_last_good_answers"),
    "FaultyFiles": gauge('vmw_metadata_instance_files{state="fault"}'),
    "CatalogueFails": counter("vmw_metadata_catalogue_restarts_total"),
    "MachinesNotBack": gauge('vmw_metadata_machines{state="missing"}'),
    "Refuses": counter('vmw_metadata_connections_refused_total{reason="network"}'),
    "NearlyFull": [
        Play("vmw_metadata_connections", 90, 10),
        Play("vmw_metadata_connections_limit", 100, 100),
    ],
    "NearlyOutOfDescriptors": [
        Play("vmw_metadata_open_fds", 95, 10),
        Play("vmw_metadata_max_fds", 100, 100),
    ],
    "MemoryBudgetUsedUp": counter('vmw_metadata_memory_shed_total{table="machines"}'),
    "SlowBoots": slow("vmw_metadata_boot_seconds_bucket"),
    "LookupsQueue": slow("vmw_metadata_lookup_wait_seconds_bucket"),
    "VmotionsFail": counter('vmw_metadata_vmotions_total{outcome="expired"}'),
    "IdentityConflicts": counter('vmw_metadata_identity_conflicts_total{kind="rival"}'),
    "TlsFails": counter("vmw_metadata_tls_failures_total"),
    "InternalErrors": counter("vmw_metadata_internal_errors_total"),
    "LinesDropped": counter('vmw_metadata_dropped_total{what="log lines"}'),
    "WorkersDie": counter("vmw_metadata_worker_restarts_total"),
}
# One event each, which is no reason to wake anybody; the others are.
SINGLE = [
    *("WebhooksRefused", "LookupsFail", "CatalogueFails", "Refuses", "MemoryBudgetUsedUp"),
    *("VmotionsFail", "IdentityConflicts", "TlsFails", "LinesDropped"),
]
AT_ONCE = ["InternalErrors", "WorkersDie"]
SINGLES = [*SINGLE, *AT_ONCE]


def named(series: str, server: str) -> str:
    name, brace, rest = series.partition("{")
    return f'{name}{{instance="{server}"{"," if brace else ""}{rest or "}"}'


def values(play: Play) -> str:
    scrapes = GONE * 60 // SCRAPES_S
    if isinstance(play.bad, str):
        grown = int(play.bad) * scrapes
        return f"0{play.bad}x{scrapes} {grown}+0x{MINUTES * 60 // SCRAPES_S}"
    return f"{play.bad}x{scrapes} {play.good}x{MINUTES * 60 // SCRAPES_S}"


def steady(outcome: str) -> dict[str, str]:
    """Webhooks of a steady load: at each scrape some wait, and none of them for long."""
    scrapes, later = GONE * 60 // SCRAPES_S, MINUTES * 60 // SCRAPES_S
    counted = f'vmw_metadata_outcome_hooks_total{{outcome="{outcome}"}}'
    return {
        "vmw_metadata_outcome_hooks_waiting": f"4x{scrapes} 0x{later}",
        "vmw_metadata_outcome_hooks_oldest_seconds": f"0.5x{scrapes} 0x{later}",
        counted: f"0+5x{scrapes} {5 * scrapes}+0x{later}",
    }


def scene(name: str, minutes: tuple[int, ...], series: dict[str, dict[str, str]]) -> dict[str, Any]:
    """Servers, each with the series of one alert and with its name: any alert may fire for any."""
    return {
        "name": name,
        "interval": f"{SCRAPES_S}s",
        "input_series": [
            {"series": named(one, server), "values": text}
            for server, its in series.items()
            for one, text in its.items()
        ],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": f"VmwMetadata{alert}", "exp_alerts": []}
            for minute in minutes
            for alert in PLAYS
        ],
    }


# Of each alert that promtool expected not to fire.
FIRED = re.compile(
    r"name: (?P<scene>\w+),\s+alertname: VmwMetadata(?P<alert>\w+), "
    r"time: (?:(?P<hours>\d+)h)?(?:(?P<minutes>\d+)m)?,\s+exp:\[\],\s+"
    r"got:\[\n(?P<got>.*?)\n {12}\]",
    re.DOTALL,
)
Fired = dict[tuple[str, int, str], list[str]]  # scene, minute, alert: the servers


@pytest.fixture(scope="module")
def fired(program: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory) -> Fired:
    """Which alerts fired for which servers, of one run for all: most of its time is its start."""
    promtool, file = program("promtool", "prometheus"), tmp_path_factory.mktemp("alerts") / "t"
    lasting = {name: {play.series: values(play) for play in PLAYS[name]} for name in PLAYS}
    single = {name: {play.series: "0x40 1x400" for play in PLAYS[name]} for name in SINGLES}
    hooks = {outcome: steady(outcome) for outcome in ("delivered", "retried", "refused")}
    scenes = [
        scene("lasting", LASTING, lasting),
        scene("single", ONE_EVENT, single),
        scene("steady", LASTING, hooks),
    ]
    file.write_text(yaml.safe_dump({"rule_files": [str(RULES)], "tests": scenes}))
    ended = subprocess.run([promtool, "test", "rules", file], capture_output=True, text=True)
    out = ended.stdout + ended.stderr
    found = {
        (one["scene"], int(one["hours"] or 0) * 60 + int(one["minutes"] or 0), one["alert"]): (
            re.findall(r'Labels:.*instance="(\w+)"', one["got"])
        )
        for one in FIRED.finditer(out)
    }
    assert len(found) == out.count("got:[") == out.count("exp:["), out
    return found


@pytest.mark.parametrize("name", PLAYS)
def test_alert_fires_while_its_cause_lasts_and_ends_with_it(name: str, fired: Fired) -> None:
    assert [fired.get(("lasting", minute, name), []) for minute in LASTING] == [[name], []]


@pytest.mark.parametrize("name", SINGLES)
def test_alert_of_a_single_event(name: str, fired: Fired) -> None:
    *soon, later = [fired.get(("single", minute, name), []) for minute in ONE_EVENT]
    assert [one for one in soon if one not in ([], [name])] == []
    assert ([name] in soon, [] in soon) == (name in AT_ONCE, True)
    assert later == []


@pytest.mark.parametrize("minute", LASTING)
def test_webhooks_of_a_steady_load_are_no_reason_but_lost_ones_are(
    minute: int, fired: Fired
) -> None:
    expected = ["refused"] if minute < GONE else []
    assert fired.get(("steady", minute, "OutcomeHooksFail"), []) == expected


def test_every_alert_is_played() -> None:
    assert [f"VmwMetadata{name}" for name in PLAYS] == [rule["alert"] for rule in rules()]


def anchors() -> set[str]:
    text = (CHECKOUT / "docs/operations.md").read_text()
    return {heading.lower() for heading in re.findall(r"^### (\w+)$", text, re.MULTILINE)}


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: str(rule["alert"]))
def test_alert_says_what_it_means_and_where_to_read_on(rule: dict[str, Any]) -> None:
    notes = rule["annotations"]
    assert set(notes) == {"summary", "description", "runbook_url"}
    page, _, anchor = notes["runbook_url"].partition("#")
    assert page == "https://not-set.invalid/operations/"  # no other one is right for everybody
    assert anchor == rule["alert"].lower()
    assert anchor in anchors()


def test_command_of_the_document_gives_each_alert_the_address_of_the_site(
    program: Callable[[str, str], str], tmp_path: Path
) -> None:
    text = (CHECKOUT / "docs/operations.md").read_text()
    found = re.search(r"^```\nRUNBOOKS=\S+\n(sed .*) >(\S+)\n```$", text, re.MULTILINE)
    assert found
    for address in ("https://wiki.example.org/vmw/operations/", "http://git/docs/operations.md"):
        made = tmp_path / found[2]
        with made.open("w") as out:
            subprocess.run(
                found[1],
                shell=True,
                check=True,
                cwd=CHECKOUT,
                stdout=out,
                env={"PATH": "/usr/bin:/bin", "RUNBOOKS": address},
            )
        subprocess.run([program("promtool", "prometheus"), "check", "rules", made], check=True)
        (group,) = yaml.safe_load(made.read_text())["groups"]
        assert [rule["annotations"]["runbook_url"] for rule in group["rules"]] == [
            f"{address}#{rule['alert'].lower()}" for rule in rules()
        ]
