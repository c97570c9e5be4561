"""What cloud-init takes user-data for, with cloud-init's own UserDataProcessor as the judge."""

from __future__ import annotations

import base64
import gzip
import re
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests import schemas
from tests.laws import cases
from tests.schemas import Look, look  # noqa: F401 - look is a fixture
from vmw_cloudinit_metadata.instance.userdata import cloudconfig, formats, misread
from vmw_cloudinit_metadata.instance.userdata.formats import Part, parts_of

UNKNOWN = {"text/x-not-multipart", "text/plain"}
MIME = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=xx\n\n"
PART = "--xx\nContent-Type: {}\n\n{}\n"


def warnings(document: bytes | str) -> list[str]:
    raw = document.encode() if isinstance(document, str) else document
    return [
        f"{fault.found}, expected {fault.expected}" for fault in misread.faults_in(raw, "userdata")
    ]


def leaves(document: bytes) -> list[str | None]:
    """The types of the parts that cloud-init hands to its handlers."""
    parts = [part for part in parts_of(document) if isinstance(part, Part)]
    found = [part.type for part in parts if part.type != formats.ARCHIVE and not part.lines_before]
    return ["text/x-include-url" if kind == formats.INCLUDE_ONCE else kind for kind in found]


RIGHT: dict[str, bytes | str] = {
    "cloud-config": "#cloud-config\npackages: [a]\n",
    "windows": "#cloud-config\r\npackages: [a]\r\n",
    "words-behind": "#cloud-config  # managed by Ansible\npackages: [a]\n",
    "upper-case": "#Cloud-Config\npackages: [a]\n",
    "blank-lines": "\n \n#cloud-config\npackages: [a]\n",
    "blank": " #cloud-config\npackages: [a]\n",
    "script": "#!/bin/sh -e\necho a\n",
    "script-of-one-line": "#!/usr/bin/env bash\n",
    "script-in-latin-1": "#!/bin/sh\necho é\n".encode("latin-1"),
    "boothook": "#cloud-boothook\n#!/bin/sh\necho a\n",
    "boothook-of-windows": "#cloud-boothook\r\n#!/bin/sh\r\necho a\r\n",
    "include": "#include\nhttp://example.com/a\n",
    "include-of-one-line": "#include http://example.com/a\n",
    "jinja-of-cloud-config": "## template: jinja\n#cloud-config\nruncmd: [{{ ds.x }}]\n",
    "jinja-without-syntax": "## template: jinja\n#cloud-config\npackages: [a]\n",
    "jinja-that-begins-with-syntax": "## template: jinja\n{% if a %}\n#cloud-config\n{% endif %}\n",
    "archive": "#cloud-config-archive\n- '#!/bin/sh'\n- {content: 'packages: [a]'}\n"
    "- {type: text/x-shellscript, content: '#!/bin/sh'}\n",
    "gzip": gzip.compress(b"#cloud-config\npackages: [a]\n"),
    "mime": MIME + PART.format("text/cloud-config", "packages: [a]") + "--xx--\n",
    "mime-of-plain-text": MIME + PART.format("text/plain", "#!/bin/sh\necho") + "--xx--\n",
    "mime-of-per-boot": MIME + PART.format("text/x-shellscript-per-boot", "#!/bin/sh") + "--xx--\n",
    "mime-in-base64": MIME
    + "--xx\nContent-Type: text/cloud-config\nContent-Transfer-Encoding: base64\n\n"
    + base64.b64encode(b"packages: [a]\n").decode()
    + "\n--xx--\n",
    "mime-with-a-handler": MIME
    + PART.format("text/part-handler", "#part-handler\n")
    + PART.format("text/of-my-own", "x")
    + "--xx--\n",
    "mime-of-one-part": "From: a\nMIME-Version: 1.0\nContent-Type: text/cloud-config\n\na: 1\n",
    "mime-with-gzip": MIME.encode()
    + b"--xx\nContent-Type: application/gzip\nContent-Transfer-Encoding: base64\n\n"
    + base64.b64encode(gzip.compress(b"#cloud-config\na: 1\n"))
    + b"\n--xx--\n",
    "jsonp": '#cloud-config-jsonp [{"op": "add", "path": "/a", "value": 1}]\n',
}


@pytest.mark.parametrize("name", RIGHT)
def test_right_user_data_has_no_warning(name: str) -> None:
    assert warnings(RIGHT[name]) == []


@pytest.mark.parametrize(
    ("document", "warning"),
    [
        pytest.param(
            "#cloud-config package_update: true runcmd: [touch, /tmp/x]\n",
            "everything on the first line, which is a comment, expected userdata: |",
            id="folded",
        ),
        pytest.param(
            "#!/bin/sh echo a touch b\n",
            "everything on the first line, which begins with #!, expected userdata: |",
            id="folded-script",
        ),
        pytest.param(
            "#include http://example.com/a http://example.com/b\n",
            "everything on the first line, which begins with #include, expected userdata: |",
            id="folded-include",
        ),
        pytest.param(
            "#cloud-boothook #!/bin/sh echo a\n",
            "everything on the first line, which begins with #cloud-boothook",
            id="folded-boothook",
        ),
        pytest.param(
            "#cloud-boothook\necho a\n",
            "a #cloud-boothook without #!, which the kernel cannot execute, expected #!/bin/sh",
            id="boothook-without-interpreter",
        ),
        pytest.param(
            MIME + PART.format("text/cloud-boothook", "echo a\necho b") + "--xx--\n",
            "a #cloud-boothook without #!",
            id="mime-of-a-boothook",
        ),
        pytest.param(
            "#cloud-config\n## template: jinja\nhostname: '{{ ds.meta_data.x }}'\n",
            "## template: jinja below the first line, where it is a comment, expected it on the",
            id="jinja-below",
        ),
        pytest.param(
            "## template: jinja #cloud-config a: b\n",
            "more text after ## template: jinja, expected ## template: jinja alone",
            id="folded-jinja",
        ),
        pytest.param(
            "#cloud-config\\npackage_update: true\\n",
            "a backslash and n on the first line, in place of a line break, expected userdata: |",
            id="literal-line-break",
        ),
        pytest.param(
            "#!/bin/sh\\necho a", "a backslash and n on the first line", id="literal-in-a-script"
        ),
        pytest.param(
            "#cloud-config\\r\\npackages: [a]", "a backslash and n on the first", id="literal-crlf"
        ),
        pytest.param(
            "#cloud-config  # managed by Ansible\nruncmd: [touch, /tmp/x\n",
            "a [ that is not closed on line 2 of the #cloud-config",
            id="words-behind",
        ),
        pytest.param(
            "#CLOUD-CONFIG\nruncmd: [a\n",
            "a [ that is not closed on line 2 of the #cloud-config",
            id="upper-case",
        ),
        pytest.param(
            "\n\n#cloud-config\na: [\n",
            "a [ that is not closed on line 4 of the #cloud-config",
            id="blank-lines",
        ),
        pytest.param(
            MIME, "MIME without any part, expected parts between boundary lines", id="mime-alone"
        ),
        pytest.param(
            MIME + "#cloud-config\na: 1\n", "MIME without any part", id="mime-without-boundaries"
        ),
        pytest.param(
            MIME + PART.format("text/cloud-config", "a: [") + "--xx--\n",
            "a [ that is not closed on line 1 of the #cloud-config",
            id="mime-of-no-yaml",
        ),
        pytest.param(
            MIME + 2 * PART.format("text/cloud_config", "a: 1") + "--xx--\n",
            "an unsupported Content-Type in part 1, expected a type that cloud-init supports",
            id="mime-of-another-type",
        ),
        pytest.param(
            MIME + 2 * PART.format("text/plain", "echo") + "--xx--\n",
            "4 bytes in part 1, expected a first line that cloud-init recognizes",
            id="mime-of-plain-text",
        ),
        pytest.param(
            MIME + PART.format("text/x-shellscript", "echo a") + "--xx--\n",
            "a script without #!, expected #!/bin/sh on its first line",
            id="script-without-a-shell",
        ),
        pytest.param(
            "Content-Type: multipart/mixed; boundary=xx\n\n--xx\n\n#cloud-config\n--xx--\n",
            "71 bytes with Content-Type: but without MIME-Version:, expected MIME-Version: 1.0",
            id="without-mime-version",
        ),
        pytest.param(
            "some words\nContent-Type: text/cloud-config\n\na: 1\n",
            "49 bytes with Content-Type: but without MIME-Version:",
            id="content-type-further-down",
        ),
        pytest.param(
            "some words\nMIME-Version: 1.0\nContent-Type: text/cloud-config\n\na: 1\n",
            "67 bytes with Content-Type:",
            id="mime-further-down",
        ),
        pytest.param(
            "\ufeff#cloud-config\n",
            "a byte order mark before the first line, expected UTF-8 without a byte order mark",
            id="byte-order-mark",
        ),
        pytest.param(
            "#cloud-config\n".encode("utf-16"), "30 bytes of UTF-16, expected UTF-8", id="utf-16"
        ),
        pytest.param(
            "#cloud-config\n".encode("utf-16-be"), "28 bytes of UTF-16", id="utf-16-without-a-mark"
        ),
        pytest.param(
            base64.b64encode(b"#cloud-config\n"),
            "base64 text, which cloud-init does not decode, expected !!binary before it",
            id="base64",
        ),
        pytest.param(
            base64.encodebytes(gzip.compress(bytes(999)) * 9), "base64 text", id="base64-of-gzip"
        ),
        pytest.param(
            "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n",
            "a private key, expected a first line that cloud-init recognizes",
            id="private-key",
        ),
        pytest.param(
            "#cloud_config\n", "14 bytes whose first line resembles #cloud-config", id="_"
        ),
        pytest.param("# cloud-config\na: 1\n", "20 bytes whose first line resembles", id="blank"),
        pytest.param("#cloudconfig\na: 1\n", "18 bytes whose first line resembles", id="no-dash"),
        pytest.param("#clod-config\na: 1\n", "18 bytes whose first line resembles", id="misspelt"),
        pytest.param(
            "packages: [a]\nruncmd: []\n",
            "25 bytes with the #cloud-config key packages, but without a #cloud-config line",
            id="no-header",
        ),
        pytest.param(
            "echo a\n", "7 bytes, expected a first line that cloud-init recognizes", id="none"
        ),
        pytest.param(b"\x1f\x8bxx", "corrupt compressed data", id="broken-gzip"),
        pytest.param(gzip.compress(bytes(99))[:-9], "truncated compressed data", id="cut-gzip"),
        pytest.param(
            gzip.compress(bytes(9 << 20)), "compressed data of more than 4,194,304", id="gzip-bomb"
        ),
        pytest.param(
            gzip.compress(b"#cloud-config a: b"), "everything on the first line", id="gzip-folded"
        ),
        pytest.param(
            "#cloud-config-archive\na: 1\n", "a mapping after #cloud-config-archive", id="archive"
        ),
        pytest.param(
            "#cloud-config-archive\n- {type: x}\n",
            "an invalid type in item 1 of the archive, expected a type such as",
            id="archive-of-no-type",
        ),
        pytest.param(
            "#cloud-config-archive\n- 'a: ['\n- 5\n",
            "a [ that is not closed on line 1 of the #cloud-config in item 1 of the archive",
            id="archive-of-no-yaml",
        ),
        pytest.param(
            "## template: jinja\n#cloud-config\na: [\n",
            "a [ that is not closed on line 3 of the #cloud-config",
            id="jinja-without-syntax",
        ),
        pytest.param(
            "## template: jinja\npackages: [{{ a }}]\n",
            "a template of an unknown format, expected #cloud-config or #!",
            id="jinja-of-nothing",
        ),
        pytest.param(
            "#cloud-config\npakages: [a]\n",
            "an unknown key on line 2 of the #cloud-config, expected 'packages', if that is meant",
            id="misspelt-key",
        ),
        pytest.param(
            "#cloud-config\na: 1\nwrite-files: []\n",
            "an unknown key on line 3 of the #cloud-config, expected 'write_files'",
            id="dash-for-underscore",
        ),
        pytest.param(
            "#cloud-config\na: 1\n\ufeff#cloud-config\nb: 1\n",
            "a byte order mark on line 3 of the #cloud-config, expected UTF-8 without a byte"
            " order mark",
            id="byte-order-mark-within",
        ),
        pytest.param(
            "#cloud-config\nnetwork: {version: 2}\n",
            "the key network on line 2 of the #cloud-config, expected network at the top of the "
            "instance file",
            id="network",
        ),
    ],
)
def test_user_data_of_another_kind_is_reported(document: bytes | str, warning: str) -> None:
    assert warnings(document)[0].startswith(warning)


HOSTILE = {
    "containers": "MIME-Version: 1.0\n"
    + "".join(f"Content-Type: multipart/mixed; boundary=b{i}\n\n--b{i}\n" for i in range(5000)),
    "parts": MIME + PART.format("text/plain", "x") * 20_000,
    "headers": "MIME-Version: 1.0\n" + "a: b\n" * 150_000,
    "archive": "#cloud-config-archive\n" + "- x\n" * 90_000,
    "unknown-keys": "#cloud-config\n" + "".join(f"packagess{i}: 1\n" for i in range(50_000)),
    "base64": "A" * (1 << 20),
    "blanks": " " * (1 << 20),
    "nested": "#cloud-config\n" + "[" * 500_000,
    "hashes": "#" * (1 << 20),
    "keys": "packages:\n" * 100_000,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_user_data_is_looked_at_in_bounds(name: str) -> None:
    found = list(misread.faults_in(HOSTILE[name].encode(), "userdata"))
    assert len(found) < 300


# The judge


@pytest.mark.parametrize("name", sorted(RIGHT))
def test_cloud_init_takes_right_user_data(name: str, look: Look) -> None:  # noqa: F811
    document = RIGHT[name]
    raw = document.encode() if isinstance(document, str) else document
    told = look(raw)
    assert [kind for kind, _ in told] == leaves(raw)
    for kind, value in told:
        assert kind != "text/cloud-config" or value == "dict"


LINES = st.sampled_from(
    [
        *(f"{begin}" for begin in formats.BEGINNINGS),
        *("#Cloud-Config", " #cloud-config", "# cloud-config", "#cloud_config", "#cloud-configs"),
        *("#cloud-config # x", "#cloud-config a: b", "#cloud-config\\na: b", "\ufeff#cloud-config"),
        *("## Template: Jinja", "##template: jinja", "#INCLUDE http://a", "", " ", "\t", "\u2003"),
        *("MIME-Version: 1.0", "mime-version: 1.0", "Content-Type: text/cloud-config"),
        *("Content-Type: multipart/mixed; boundary=xx", "Content-Type: text/x-shellscript"),
        *("Content-Type: text/plain", "Content-Type: application/gzip", "--xx", "--xx--"),
        *("a: 1", "a: [", "- a", "- {type: text/x-shellscript, content: x}", "- content: 5"),
        *("x", "{{ a }}", "---", "packages: [a]", "\x00", "é"),
    ]
)
DOCUMENTS = st.lists(LINES, min_size=1, max_size=7).map("\n".join).filter(bool)


@settings(max_examples=cases(150), deadline=None)
@given(document=DOCUMENTS)
@example(document="#cloud-config\nMIME-Version: 1.0\na: 1")
@example(document="#cloud-config package_update: true")
@example(document="#cloud-config-archive\n- a\n\ufeff#cloud-config\n- b")
def test_parts_are_those_that_cloud_init_finds(document: str, look: Look) -> None:  # noqa: F811
    raw = document.encode()
    told: Any = look(raw)
    if isinstance(told, str):  # it fails, and all of its user-data is lost
        assert warnings(raw), document
        return
    assert leaves(raw) == [None if kind in UNKNOWN else kind for kind, _ in told]
    for kind, value in told:
        is_empty = kind == "text/cloud-config" and value != "dict" and not is_commented(raw)
        if kind in UNKNOWN or is_empty:
            assert warnings(raw), document


def is_commented(document: bytes) -> bool:
    """Whether all lines of a #cloud-config are comments: it is meant to say nothing."""
    parts = [part for part in parts_of(document) if isinstance(part, Part)]
    for part in parts:
        text = part.content.decode("utf-8", "replace").replace("\ufeff", "")
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        is_bare = len(lines) != 1 or re.fullmatch("#[a-zA-Z-]*", lines[0])
        if is_bare and all(line.startswith(("#", "---")) for line in lines):
            return True
    return False


# Names


def test_every_key_that_the_newest_cloud_init_knows_is_known() -> None:
    for suite in schemas.SUITES:
        schema = schemas.schema(suite, "cloud-config-v1")
        assert properties_of(schema, schema) <= cloudconfig.KEYS


def properties_of(schema: dict[str, Any], whole: dict[str, Any]) -> set[str]:
    found = set(schema.get("properties", {}))
    for below in schema.get("allOf", ()):
        name = below.get("$ref", "").rpartition("/")[2]
        found |= properties_of(whole["$defs"][name] if name else below, whole)
    return found


@pytest.mark.parametrize(
    ("name", "known"),
    [
        ("pakages", "packages"),
        ("package", "packages"),
        ("Packages", "packages"),
        ("runcmds", "runcmd"),
        ("run_cmd", "runcmd"),
        ("bootcmds", "bootcmd"),
        ("write-files", "write_files"),
        ("ssh-authorized-keys", "ssh_authorized_keys"),
        ("ssh_authorised_keys", "ssh_authorized_keys"),
        ("package-update", "package_update"),
        ("hostnme", "hostname"),
        ("timzone", "timezone"),
        ("growpert", "growpart"),
        ("usres", "users"),
        ("my_key", None),
        ("x-anchors", None),
        ("rack", None),
        ("x" * 500, None),
        ("", None),
    ],
)
def test_misspelt_key_finds_the_nearest(name: str, known: str | None) -> None:
    assert cloudconfig.nearest(name, cloudconfig.KEYS) == known


@given(st.sampled_from(sorted(cloudconfig.KEYS)), st.data())
def test_key_without_a_letter_is_found_again(name: str, data: st.DataObject) -> None:
    cut = data.draw(st.integers(0, len(name) - 1))
    misspelt = name[:cut] + name[cut + 1 :]
    found = cloudconfig.nearest(misspelt, cloudconfig.KEYS)
    if len(misspelt) >= 4:
        assert found
        assert cloudconfig.edits(misspelt.replace("-", "_"), found.replace("-", "_"), 1) <= 1


@given(st.text("abc", max_size=6), st.text("abc", max_size=6), st.integers(0, 3))
def test_edits_are_those_of_the_definition(one: str, other: str, most: int) -> None:
    def slow(a: str, b: str) -> int:
        if not a or not b:
            return len(a) + len(b)
        least = min(slow(a[1:], b) + 1, slow(a, b[1:]) + 1, slow(a[1:], b[1:]) + (a[0] != b[0]))
        if len(a) > 1 and len(b) > 1 and (a[0], a[1]) == (b[1], b[0]):
            least = min(least, slow(a[2:], b[2:]) + 1)
        return least

    assert cloudconfig.edits(one, other, most) == min(slow(one, other), most + 1)
