"""A system-call filter for model-written programs: no processes, sockets, signals to others, tracing or name spaces.

Threads stay allowed. The filter holds for one process and whatever it executes, needs no privileges, and also limits the
number of processes where RLIMIT_NPROC does not (it exempts root and counts all of a user's processes).
"""

import platform
import struct

_ARCHITECTURES = {  # audit number, then system-call numbers (Linux's unistd tables)
    "x86_64": (
        0xC000003E,
        {"clone": 56, "clone3": 435, "prlimit64": 302},
        # fork vfork ptrace socket socketpair kill tkill tgkill unshare setns mount chroot setpgid setsid process_vm_*
        (57, 58, 101, 41, 53, 62, 200, 234, 272, 308, 165, 161, 109, 112, 310, 311)
        # io_uring_setup bpf userfaultfd perf_event_open keyctl add_key request_key open_by_handle_at shmget msgget semget
        + (425, 321, 323, 298, 250, 248, 249, 304, 29, 68, 64)
        # pidfd_open pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo
        + (434, 424, 129, 297),
    ),
    "aarch64": (
        0xC00000B7,
        {"clone": 220, "clone3": 435, "prlimit64": 261},
        (117, 198, 199, 129, 130, 131, 97, 268, 40, 51, 154, 157, 270, 271)
        + (425, 280, 282, 241, 219, 217, 218, 265, 194, 186, 190)
        + (434, 424, 138, 240),
    ),
}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000


def program():
    """The filter as bytes (struct sock_filter[]), None on an architecture whose numbers are not listed."""
    if platform.machine() not in _ARCHITECTURES:
        return None
    audit, special, denied = _ARCHITECTURES[platform.machine()]
    deny = (_RETURN, 0, 0, _ERRNO | _EPERM)
    code = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit), deny]  # another architecture's numbering
    code += [(_LOAD, 0, 0, 0), (_AT_LEAST, 0, 1, 0x40000000), deny]  # x32 on x86_64
    for number in denied:
        code += [(_EQUAL, 0, 1, number), deny]
    # glibc falls back from clone3 to clone, whose flags a filter can see
    code += [(_EQUAL, 0, 1, special["clone3"]), (_RETURN, 0, 0, _ERRNO | _ENOSYS)]
    code += [(_EQUAL, 0, 4, special["clone"]), (_LOAD, 0, 0, 16), (_ANY_BIT, 1, 0, _CLONE_THREAD), deny, (_RETURN, 0, 0, _ALLOW)]
    # limits of this process (pid 0) only
    code += [(_EQUAL, 0, 4, special["prlimit64"]), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), deny, (_RETURN, 0, 0, _ALLOW)]
    code += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
