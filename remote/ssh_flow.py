"""Keeps what an SSH channel has received, and nobody has read yet, within bounds.

asyncssh 2.24 (``SSHChannel._deliver_data``) grants the other side a whole new window with the first packet that is
delivered after a pause, however much of the last window still waits in the channel. A stream session ends its pause as
soon as it is a byte below its limit. So with a slow reader every few kilobytes that are read let a whole window more
come in: all of a log of gigabytes ends up in memory. When a pause ends only once everything has been read, a window is
granted once for each window read, and no more than three are ever held.
"""

from __future__ import annotations

from typing import Any, Final

from asyncssh.stream import SSHStreamSession

_resume_below_limit: Final = SSHStreamSession._maybe_resume_reading


def _resume_once_empty(session: SSHStreamSession[Any]) -> bool:
    return False if session._recv_buf_len else _resume_below_limit(session)


def bound_channels() -> None:
    """Bound the channels of every SSH connection of this process. Repeating it changes nothing."""
    SSHStreamSession._maybe_resume_reading = _resume_once_empty  # type: ignore[assignment,method-assign]
