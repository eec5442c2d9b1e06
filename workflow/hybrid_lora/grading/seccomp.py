"""A system-call filter for model-written programs: no processes, sockets, signals to others, tracing or name spaces.

Nor files in memory alone (memfd: under no limit of ours), owners of open files (whom the kernel would send signals), or
permissions, times, attributes, handles and watches of files (which Landlock does not know). Threads stay allowed. The filter
holds for one process and whatever it executes, needs no privileges, and also limits the number of processes where
RLIMIT_NPROC does not (it exempts root and counts all of a user's processes).
"""

import platform
import struct

_ARCHITECTURES = {  # audit number, then system-call numbers (Linux's unistd tables)
    "x86_64": (
        0xC000003E,
        {"clone": 56, "clone3": 435, "prlimit64": 302, "fcntl": 72, "ioctl": 16, "prctl": 157},
        # fork vfork ptrace socket socketpair kill tkill tgkill unshare setns mount chroot setpgid setsid process_vm_*
        (57, 58, 101, 41, 53, 62, 200, 234, 272, 308, 165, 161, 109, 112, 310, 311)
        # io_uring_setup bpf userfaultfd perf_event_open keyctl add_key request_key open_by_handle_at shmget msgget semget
        + (425, 321, 323, 298, 250, 248, 249, 304, 29, 68, 64)
        # pidfd_open pidfd_send_signal rt_sigqueueinfo rt_tgsigqueueinfo memfd_create memfd_secret
        + (434, 424, 129, 297, 319, 447)
        # setpriority ioprio_set sched_setaffinity sched_setparam sched_setscheduler sched_setattr process_madvise mq_open
        + (141, 251, 203, 142, 144, 314, 440, 240)
        # inotify_init inotify_init1 fanotify_init name_to_handle_at pidfd_getfd sync syncfs syslog
        + (253, 294, 300, 303, 438, 162, 306, 103)
        # chmod fchmod fchmodat fchmodat2 chown fchown lchown fchownat utime utimes futimesat utimensat, *setxattr, *removexattr
        + (90, 91, 268, 452, 92, 93, 94, 260, 132, 235, 261, 280, 188, 189, 190, 197, 198, 199),
    ),
    "aarch64": (
        0xC00000B7,
        {"clone": 220, "clone3": 435, "prlimit64": 261, "fcntl": 25, "ioctl": 29, "prctl": 167},
        (117, 198, 199, 129, 130, 131, 97, 268, 40, 51, 154, 157, 270, 271)
        + (425, 280, 282, 241, 219, 217, 218, 265, 194, 186, 190)
        + (434, 424, 138, 240, 279, 447)
        + (140, 30, 122, 118, 119, 274, 440, 180)
        + (26, 262, 264, 438, 81, 267, 116)
        + (52, 53, 452, 54, 55, 88, 5, 6, 7, 14, 15, 16),
    ),
}
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_EPERM, _ENOSYS = 1, 38
_CLONE_THREAD = 0x00010000
_REFUSED_ARGUMENTS = {  # call that is otherwise allowed -> (which argument, its refused values)
    "fcntl": (1, (8, 10, 15)),  # F_SETOWN F_SETSIG F_SETOWN_EX
    "ioctl": (1, (0x5412, 0x541C, 0x8901, 0x8902)),  # TIOCSTI TIOCLINUX FIOSETOWN SIOCSPGRP
    "prctl": (0, (1,)),  # PR_SET_PDEATHSIG: it ends with the grader
}


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
    for name, (argument, refused) in _REFUSED_ARGUMENTS.items():
        code += [(_EQUAL, 0, 2 * len(refused) + 2, special[name]), (_LOAD, 0, 0, 16 + 8 * argument)]
        code += [step for value in refused for step in ((_EQUAL, 0, 1, value), deny)]
        code += [(_RETURN, 0, 0, _ALLOW)]
    # limits of this process (pid 0) only
    code += [(_EQUAL, 0, 4, special["prlimit64"]), (_LOAD, 0, 0, 16), (_EQUAL, 1, 0, 0), deny, (_RETURN, 0, 0, _ALLOW)]
    code += [(_RETURN, 0, 0, _ALLOW)]
    return b"".join(struct.pack("HBBI", *instruction) for instruction in code)
