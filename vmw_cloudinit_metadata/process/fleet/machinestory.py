"""Asks the server that has a machine for what only it knows: requests, moves and events.

The question is a row; NOTIFY wakes the server that has the machine, and then the one that asked.
Rows live for as long as somebody waits for them.
"""

from __future__ import annotations

from typing import LiteralString

from vmw_cloudinit_metadata.process.fleet.fleetpart import Context, channel_of, notice_of
from vmw_cloudinit_metadata.process.fleet.fleetservers import GONE_S
from vmw_cloudinit_metadata.process.fleet.frames import Fields, Reply
from vmw_cloudinit_metadata.process.fleet.machinerows import key_text

ASKED, TOLD = "story-asked", "story-told"
PARTS = ("ports", "asked", "moves", "story")  # of a machine in the API; lists of objects

_ASK: LiteralString = f"""
    WITH question AS (
        INSERT INTO vmw_fleet.story (id, server, key, asker, process)
        SELECT %s, id, %s, %s, %s FROM vmw_fleet.servers
        WHERE id = %s AND stopped IS NULL AND heartbeat > now() - interval '{GONE_S:g} s'
        RETURNING id)
    SELECT pg_notify(%s, %s) FROM question"""
_QUESTION: LiteralString = """
    SELECT key FROM vmw_fleet.story WHERE id = %s AND server = %s"""
_TELL: LiteralString = """
    UPDATE vmw_fleet.story SET answer = %s WHERE id = %s AND server = %s
    RETURNING asker, process"""
_NOTIFY: LiteralString = "SELECT pg_notify(%s, %s)"
_ANSWER: LiteralString = """
    DELETE FROM vmw_fleet.story WHERE id = %s AND asker = %s RETURNING answer"""
_FORGET: LiteralString = """
    DELETE FROM vmw_fleet.story WHERE asked < now() - interval '30 s'"""


async def ask(context: Context, process: int, fields: Fields, _payload: bytes) -> Reply:
    """Ask a server that runs for a story; reply whether it does."""
    question, server = int(fields["question"]), str(fields["server"])
    about = key_text(str(fields["id"])), context.server, process
    notice = channel_of(server), notice_of(ASKED, question)
    asked = await context.slow.run(_ASK, (question, *about, server, *notice))
    return Reply({"is_asked": bool(asked)})


async def asked(context: Context, question: int) -> Reply | None:
    """Return which story another server asks for."""
    rows = await context.slow.run(_QUESTION, (question, context.server))
    return Reply({"question": question, "id": rows[0][0]}) if rows else None


async def tell(context: Context, _process: int, fields: Fields, payload: bytes) -> Reply:
    """Tell the server that asked."""
    question = int(fields["question"])
    for asker, process in await context.slow.run(_TELL, (payload, question, context.server)):
        notice = notice_of(TOLD, question, process)
        await context.slow.run(_NOTIFY, (channel_of(asker), notice))
    return Reply({})


async def told(context: Context, question: int) -> Reply | None:
    """Return what another server has told."""
    rows = await context.slow.run(_ANSWER, (question, context.server))
    return Reply({"question": question}, bytes(rows[0][0] or b"")) if rows else None


async def forget(context: Context) -> None:
    """Delete questions that nobody waits for."""
    await context.slow.run(_FORGET)
