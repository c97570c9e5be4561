"""A set of documents, read until the server's digest confirms that they belong together."""

import hashlib
from typing import Any, Dict, Optional

from vmw_cloudinit_metadata.guest.agent.conversation import FILES, Conversation
from vmw_cloudinit_metadata.guest.agent.failures import ErrorAnswer, Unusable
from vmw_cloudinit_metadata.guest.agent.responses import Documents, load_json


class DocumentReader:
    """Reads a set of documents; remembers the last set that could not be verified."""

    def __init__(self) -> None:
        self._unverified: Optional[Documents] = None

    def read(self, conversation: Conversation) -> Documents:
        """Raise Unusable if the documents are inconsistent, and whatever `ask` raises."""
        noise_before = conversation.noise
        conversation.received.clear()
        documents = {
            "METADATA": conversation.ask("METADATA", also="DIGEST"),
            # The digest is requested twice, as noise may damage one of them.
            "NETWORKDATA": ask_for(conversation, "NETWORKDATA", also="DIGEST"),
            "USERDATA": ask_for(conversation, "USERDATA"),
        }
        digest = parse_digest(conversation.received.get("DIGEST"))
        if digest is None:
            if conversation.ask("METADATA") != documents["METADATA"]:
                raise Unusable("the data changed while it was read")
            return self._accept(documents, conversation.noise != noise_before)
        if "VENDORDATA" in digest:
            documents["VENDORDATA"] = ask_for(conversation, "VENDORDATA")
        return verified(documents, digest)

    def _accept(self, documents: Documents, noisy: bool) -> Documents:
        """Accept a set without a digest (an old server): a noisy line must deliver it twice."""
        if noisy and documents != self._unverified:
            self._unverified = documents
            raise Unusable("the line is noisy and the server has no digest")
        return documents


def ask_for(conversation: Conversation, name: str, also: str = "") -> bytes:
    """Return a document, empty if the server does not know it."""
    try:
        return conversation.ask(name, also)
    except ErrorAnswer as answer:
        if answer.error == "unknown-request":
            return b""
        raise


def parse_digest(body: Optional[bytes]) -> Optional[Dict[str, Any]]:
    """Return the digest, as in {"METADATA": {"length": 412, "sha256": "..."}}, or None."""
    try:
        digest = load_json((body or b"").decode())
    except ValueError:
        return None
    return digest if isinstance(digest, dict) else None


def verified(documents: Documents, digest: Dict[str, Any]) -> Documents:
    """Return the documents if the digest matches them; raise Unusable."""
    empty = {"length": 0, "sha256": sha256(b"")}
    wrong = [
        FILES[name]
        for name, body in documents.items()
        if not matches(body, digest.get(name, empty))
    ]
    if wrong:
        raise Unusable("the digest does not match: {}".format(", ".join(wrong)))
    return documents


def matches(body: bytes, row: Any) -> bool:
    """Return whether a row of the digest fits the document."""
    expected = (len(body), sha256(body))
    return isinstance(row, dict) and (row.get("length"), row.get("sha256")) == expected


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
