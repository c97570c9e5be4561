"""Every time limit of a connection, its VM and its guest, in seconds.

Two more are elsewhere: protocol/session.py has the silence after which a VM is asked again for its
identity, lookuppool.py and recheck.py have those of the driver.
"""

from __future__ import annotations

from vmw_cloudinit_metadata.protocol import vmotion

# From the first packet to an identified VM: slower connections are closed.
IDENTIFICATION_DEADLINE_S = 30.0

# TLS
TLS_SILENCE_S = 0.5  # until a peer that sends nothing counts as one without TLS
TLS_HANDSHAKE_S = 10.0

# Who the VM is
IDENTITY_ANSWER_S = 2.0  # from our question until it is repeated
IDENTITY_RETRY_S = 10.0  # likewise, while guests are answered with `timeout`
IDENTITY_UPDATE_S = 1.0  # likewise, of a VM that was identified: then its identity stays as it was

# vMotion
MOVE_EXPIRES_S = float(vmotion.EXPIRES_S)  # since it began, or since source or target disconnected
# A target whose source is on another server: nothing here would show that the move has failed.
MOVE_FROM_ELSEWHERE_S = 3600.0
CLAIM_S = 1.0  # for asking the fleet whether a secret was used before; ESXi waits longer
CONNECTED_S = 5.0  # after an upgrade, until a target goes on without the fleet
HAND_OVER_S = 1.0  # from VMOTION-COMPLETE until the VM goes on without what its source holds

# Answers are reported when a guest has requested nothing more for this long.
SETTLED_S = 1.0
UNSETTLED_S = 10.0  # a guest that never stops is reported at this interval

# Peers that are not served, or do not read
MUTE_LINE_S = 60.0  # ESXi reconnects a closed line at once: a refused one stays, mute, this long
FAREWELL_S = 1.0  # a peer has this long to read what was sent last, and to close its side
STALLED_S = 15 * 60.0  # a suspended guest does not read; after this long it counts as dead
