"""End-to-end tests: stock Debian under QEMU, a real bridge and a real server; docs/e2e.md."""

import pytest

pytest.register_assert_rewrite("tests.e2e.expected", "tests.e2e.boot")
