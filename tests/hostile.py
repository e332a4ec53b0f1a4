"""Work that a process of its own must survive: by the first byte of the file."""

import os
import signal

from luthier.base.errors import UserError
from luthier.data.readers.guarded import another_step


def work(_: None, data: bytes) -> object:
    another_step(1)
    match data[:1]:
        case b"l":
            while True:
                pass
        case b"w":
            signal.pause()
        case b"c":
            os.kill(os.getpid(), signal.SIGSEGV)
        case b"m":
            return len(bytearray(9 << 30))
        case b"u":
            raise UserError("the library is missing")
        case b"d":
            raise AssertionError("a defect")
    return os.getpid(), len(data)
