"""Take turns with other simulators: each round waits for a signal of `../peers.py`.

Needs the standard library alone, since each peer runs in a separate environment.
"""

import os
import socket


class Turn:
    """The connection of this process to `../peers.py`; without TURNS in the environment nothing waits."""

    def __init__(self) -> None:
        path = os.environ.get("TURNS")
        self._end = socket.socket(socket.AF_UNIX) if path else None
        if self._end is not None:
            self._end.connect(path)

    def wait(self) -> None:
        """Report that the last round is finished and wait for the signal to begin the next.

        Called before the first round and after each one. If `../peers.py` has ended, nothing waits.
        """
        if self._end is None:
            return
        try:
            self._end.sendall(b".")
            self._end.recv(1)
        except OSError:
            self._end = None
