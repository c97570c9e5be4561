"""Errors that a driver raises when it cannot work. Pure."""

from __future__ import annotations

from vmw_cloudinit_metadata.instance.layering.secretreference import SecretProblem


class DriverError(Exception):
    """The driver cannot use its options, or cannot answer now; the text is for the operator."""


class ChangedMeanwhile(DriverError):  # noqa: N818 - it is no failure of the source
    """The data changed while it was read; the look-up is repeated."""


class WebhookRefusedError(DriverError):
    """A webhook is not signed with the key: nothing of it is taken."""


class NoWebhooksError(DriverError):
    """The driver takes no webhooks."""


class SecretUnavailableError(DriverError):
    """A secret cannot be had now; the text names it, and never has its value."""

    def __init__(self, problem: SecretProblem, text: str) -> None:
        super().__init__(text)
        self.problem = problem
