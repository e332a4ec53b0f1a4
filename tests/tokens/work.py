"""Work that another process can import quickly."""

from __future__ import annotations

import os
import signal

from luthier.base.errors import UserError


def double(shared, piece):
    """Twice the piece; 13 kills the worker, 14 is refused, 15 is a defect."""
    if piece == 13:
        os.kill(os.getpid(), signal.SIGKILL)
    if piece == 14:
        raise UserError([f"rows:{piece}: not lucky. Take another."])
    return shared * piece if piece != 15 else 1 / 0
