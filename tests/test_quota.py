"""How much of the log a host and a connection may fill."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.process import Constants
from vmw_cloudinit_metadata.monitoring.facts import DocumentsServed, RivalConnected, VmIdentified
from vmw_cloudinit_metadata.monitoring.formatters import JsonFormatter
from vmw_cloudinit_metadata.monitoring.happenings import Happening
from vmw_cloudinit_metadata.monitoring.logs import LineHandler
from vmw_cloudinit_metadata.monitoring.quota import Allowances, Quota
from vmw_cloudinit_metadata.protocol.packet import Packet, serialize
from vmw_cloudinit_metadata.protocol.vmware import Machine

NOW_S = 1_700_000_000.0

LINES = st.lists(
    st.tuples(
        st.floats(-5, 60),  # seconds since the line before; a clock may go back
        st.sampled_from(["a", "b"]),
        st.integers(1, 5000),
    ),
    max_size=200,
)


@given(LINES)
def test_host_writes_no_more_than_its_burst_its_rate_and_one_line(
    lines: list[tuple[float, str, int]],
) -> None:
    buckets = Allowances(10_000, 100, 10)
    now_s, latest_s = NOW_S, NOW_S
    written = {"a": 0, "b": 0}
    forward_s = 0.0
    for after_s, key, size in lines:
        now_s += after_s
        forward_s += max(after_s, 0.0)
        latest_s = max(latest_s, now_s)
        if bucket := buckets.get(key, now_s):
            bucket.left -= size
            written[key] += size
    assert max(written.values()) <= 10_000 + 100 * forward_s + 5000


def test_host_that_was_quiet_may_write_again() -> None:
    buckets = Allowances(1000, 10, 10)
    bucket = buckets.get("a", NOW_S)
    assert bucket
    bucket.left -= 1000
    assert buckets.get("a", NOW_S) is None
    assert buckets.get("b", NOW_S)
    assert buckets.get("a", NOW_S + 1)


def test_buckets_are_bounded() -> None:
    buckets = Allowances(1000, 10, 100)
    for number in range(1000):
        buckets.get(str(number), NOW_S)
    assert len(buckets) == 100


def test_connection_that_says_too_much_leaves_the_rest_to_its_host() -> None:
    measured = Quota()
    while found := measured.allowances("10.0.0.1", "1-1", NOW_S):
        for bucket in found:
            bucket.left -= 200
    assert measured.left_out == 1
    assert measured.allowances("10.0.0.1", "1-2", NOW_S)
    assert measured.take_left_out() == {"10.0.0.1": 1}
    assert measured.take_left_out() == {}


def test_quota_stays_small_whatever_hosts_and_connections_there_are(
    constants: Constants,
) -> None:
    """Each has used up its own, which is the worst."""
    constants(monitoring__quota__HOST_BURST_BYTES=1, monitoring__quota__CONNECTION_BURST_BYTES=1)
    tracemalloc.start()
    measured = Quota()
    before, _ = tracemalloc.get_traced_memory()
    for number in range(50_000):
        for _ in range(2):
            for bucket in measured.allowances(f"2001:db8::{number:x}", f"1-{number}", NOW_S) or ():
                bucket.left -= 10
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert measured.left_out == 50_000
    assert sum(measured.take_left_out().values()) == 50_000
    assert after - before < 8_000_000


@pytest.mark.usefixtures("at_info")
def test_power_cut_of_4000_vms_of_a_host_loses_no_line(tmp_path: Path) -> None:
    digests = {
        name: {"length": 12_345, "sha256": "0123456789abcdef" * 4}
        for name in ("METADATA", "NETWORKDATA", "USERDATA", "VENDORDATA")
    }
    text = "has had its documents from " + "x" * 100
    served = DocumentsServed(
        text,
        answered=dict.fromkeys(digests, NOW_S),
        seconds=0.01,
        digest=serialize(Packet("RESPONSE_DIGEST", json.dumps(digests).encode())).decode(),
        sources=("/srv/instances/some/web-server-1234.yaml", "/srv/instances/defaults.yaml"),
        matched_by="vc-uuid",
        problem="",
    )
    descriptor = os.open(tmp_path / "log", os.O_CREAT | os.O_WRONLY)
    handler = LineHandler(descriptor, JsonFormatter())
    handler.gather()
    for number in range(4000):
        machine = Machine(f"web-server-{number}", f"01234567-89ab-cdef-fedc-ba98{number:08}")
        peer = ("10.0.0.1", 20_000 + number)
        for fact in (VmIdentified(text), RivalConnected(text), served):
            handler.hear(
                Happening(
                    *(fact, 20, NOW_S + number / 1000, f"1-{number}", f"{peer[0]}:{peer[1]}"),
                    *(peer[0], machine, ""),
                )
            )
        if number % 100 == 0:
            handler.flush()
    handler.flush()
    lines = (tmp_path / "log").read_text().splitlines()
    os.close(descriptor)
    assert handler.left_out == handler.writer.dropped == 0
    assert len(lines) == 12_000
