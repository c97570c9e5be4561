"""Constants that a test sets: in the process of a server, and in this one."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.process import Constants, ServerProcess, with_constants
from vmw_cloudinit_metadata.admin import adminport, chronicle


def test_unknown_constant_ends_the_server(start: Callable[..., ServerProcess]) -> None:
    with pytest.raises(AssertionError, match="has no attribute 'STALED_S'"):
        start(command=with_constants(serving__timeouts__STALED_S=1.0))


@pytest.mark.parametrize("name", ["admin__chronicle__MISING_S", "admin__chronicles__MISSING_S"])
def test_unknown_constant_raises(constants: Constants, name: str) -> None:
    with pytest.raises((AttributeError, ModuleNotFoundError)):
        constants(**{name: 1.0})


def test_constant_is_set_where_it_is_imported_by_its_name(constants: Constants) -> None:
    constants(admin__chronicle__MISSING_S=1.5)
    assert (chronicle.MISSING_S, adminport.MISSING_S) == (1.5, 1.5)
