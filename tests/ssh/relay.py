"""Carries standard input and output to a unix socket, as ``docker system dial-stdio`` does. Its last word names it."""

from __future__ import annotations

import os
import socket
import sys
import threading

if __name__ == "__main__":
    with socket.socket(socket.AF_UNIX) as far:
        far.connect(sys.argv[1])

        def inwards() -> None:
            while data := os.read(0, 1 << 16):
                far.sendall(data)
            far.shutdown(socket.SHUT_WR)

        threading.Thread(target=inwards, daemon=True).start()
        while received := far.recv(1 << 16):
            os.write(1, received)
