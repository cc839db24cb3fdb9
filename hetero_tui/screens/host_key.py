"""First contact: the host's key is shown and a person decides. A changed key never comes here; it is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hetero_tui.screens.dialogs import Confirm

if TYPE_CHECKING:
    from remote.errors import HostKeyUnknown


def host_key_question(unknown: HostKeyUnknown) -> Confirm:
    """Return the question for a host seen for the first time."""
    text = (
        f"{unknown.host} is not in any known_hosts file. It shows this key:\n\n"
        f"  {unknown.key_type}\n"
        f"  {unknown.fingerprint}\n\n"
        "Compare it with the one shown on the host itself:\n"
        "  ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\n\n"
        "Accepting adds this line to ~/.ssh/known_hosts:\n"
        f"  {unknown.known_hosts_line}"
    )
    return Confirm(f"Unknown host key of {unknown.host}", text, yes="Accept and remember", no="Refuse")
