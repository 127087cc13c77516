"""Run a command under a seccomp filter that refuses unshare(), as in a default container."""

import ctypes
import os
import platform
import struct
import sys

PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
UNSHARE = {"x86_64": 272, "aarch64": 97}[platform.machine()]
LOAD_CALL_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
REFUSE, ALLOW = 0x00050000 | 1, 0x7FFF0000  # REFUSE returns EPERM.

program = b"".join(
    struct.pack("HBBI", *instruction)
    for instruction in (
        (LOAD_CALL_NUMBER, 0, 0, 0),
        (JUMP_IF_EQUAL, 0, 1, UNSHARE),
        (RETURN, 0, 0, REFUSE),
        (RETURN, 0, 0, ALLOW),
    )
)


class Filter(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


libc = ctypes.CDLL(None, use_errno=True)
for call in (
    (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
    (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(Filter(4, program)), 0, 0),
):
    if libc.prctl(*call) != 0:
        sys.exit(f"prctl{call} failed: {os.strerror(ctypes.get_errno())}")
os.execv(sys.argv[1], sys.argv[1:])
