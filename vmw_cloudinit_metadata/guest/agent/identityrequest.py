"""Asks for an identity document, a JWT, and prints it."""

import re

from vmw_cloudinit_metadata.guest.agent.agentoutput import put
from vmw_cloudinit_metadata.guest.agent.conf import Settings
from vmw_cloudinit_metadata.guest.agent.failures import AgentError, Unusable
from vmw_cloudinit_metadata.guest.agent.journal import Journal
from vmw_cloudinit_metadata.guest.agent.question import Asking, Question
from vmw_cloudinit_metadata.guest.agent.system import System

MAX_JWT_BYTES = 4096
JWT_SHAPE = re.compile(rb"[\w-]+(\.[\w-]+){2}\Z")
AUDIENCE = re.compile(r"[!-~]{1,255}\Z")


def audience(text: str) -> str:
    """Return the text; raise ValueError with what is expected."""
    if not AUDIENCE.match(text):
        raise ValueError("1 to 255 visible ASCII characters, without blanks")
    return text


def run_identity(system: System, settings: Settings, journal: Journal, of: str) -> int:
    """Print the document for an audience; return the exit code."""
    question = Question("IDENTITY", of.encode(), check_jwt, settings["retry"])
    try:
        document = Asking(system, settings, question, journal.log).run()
    except AgentError as error:
        journal.log(f"no identity document: {error}")
        return 1
    put(document + b"\n")
    return 0


def check_jwt(answer: bytes) -> None:
    if len(answer) > MAX_JWT_BYTES or not JWT_SHAPE.match(answer):
        raise Unusable("the answer is not a JWT")
