"""The process that runs a model's program: evaluates calls and returns their values; it never sees what is expected.

`grading.code` runs this file's text with a bare interpreter. Job on standard input (marshal): limits, filter (seccomp
program or None), files (Landlock rules or None), libraries (a folder or None), parent (the grader's process), prompt, code,
entry_point, calls. Answer on standard output, one JSON value a line: "started" before any of the model's code, "loaded"
after it, then one encoded value per call, then "done"; {"error": kind, "type": name} ends it early.
"""

import json
import marshal
import os
import resource
import struct
import sys
import types

NODES = 1_000_000  # a linked list or tree with more nodes is a cycle


def encode(value):
    """A JSON value for plain data, linked lists and trees; anything else becomes {"other": type name}, equal to nothing."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() < 10_000 else {"int": hex(value)}
    for kind in (float, str):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, list):
        return [encode(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return {"tuple": [encode(item) for item in tuple.__iter__(value)]}
    if isinstance(value, dict):
        return {"dict": [[encode(key), encode(item)] for key, item in dict.items(value)]}
    if isinstance(value, set | frozenset | type({}.keys())):
        return {"set": [encode(item) for item in value]}
    if isinstance(value, bytes | bytearray):
        return {"bytes": bytes(value).hex()}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if hasattr(value, "val") and hasattr(value, "next"):
        return {"linked": [encode(item) for item in _linked(value)]}
    if hasattr(value, "val") and hasattr(value, "left") and hasattr(value, "right"):
        return {"tree": [item and [encode(item[0])] for item in _preorder(value)]}
    return {"other": type(value).__name__}


def _linked(node):
    values = []
    while node is not None and len(values) < NODES:
        values.append(node.val)
        node = node.next
    return values


def _preorder(root):
    """[value] for a node and None for a missing child, in preorder."""
    values, todo = [], [root]
    while todo and len(values) < NODES:
        node = todo.pop()
        values.append(None if node is None else [node.val])
        if node is not None:
            todo += [node.right, node.left]
    return values


def main():
    job = marshal.loads(sys.stdin.buffer.read())
    channel = os.dup(1)
    null = os.open(os.devnull, os.O_RDWR)
    for name, soft, hard in job["limits"]:
        resource.setrlimit(getattr(resource, name), (soft, hard))
    if job["files"]:
        restrict_files(**job["files"])
    if job["filter"]:
        die_with(job["parent"])
        drop_capabilities()
        install_filter(job["filter"])
    if job["libraries"]:
        sys.path.append(job["libraries"])
    module = types.ModuleType("program")  # not __main__: a program's own demonstration is not run
    sys.modules["program"] = module
    namespace = module.__dict__
    exec(compile(job["prompt"], "<prompt>", "exec"), namespace)  # the benchmark's; if it fails, that is no fault of the model
    send(channel, "started")
    for standard in (0, 1, 2):
        os.dup2(null, standard)
    try:
        exec(compile(job["code"], "<program>", "exec"), namespace)
        namespace["candidate"] = eval(job["entry_point"], namespace)
        send(channel, "loaded")
        for call in job["calls"]:
            send(channel, encode(eval(call, namespace)))
        send(channel, "done")
    except BaseException as error:
        report(channel, error)
    os._exit(0)  # threads and exit handlers of the program do not hold up the verdict


def report(channel, error):
    """Say what ended the program; after a memory error with the little memory that the hard limit leaves."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
    kind = "memory" if isinstance(error, MemoryError) else "exit" if isinstance(error, SystemExit) else "exception"
    send(channel, {"error": kind, "type": type(error).__name__})


def send(channel, value):
    data = json.dumps(value).encode() + b"\n"
    while data:
        data = data[os.write(channel, data) :]


def install_filter(program):
    """Install a seccomp filter (struct sock_filter[]) for this process; only where bubblewrap does not do it."""
    import ctypes

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]

    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(program, len(program))
    filled = Program(len(program) // 8, ctypes.cast(code, ctypes.c_void_p))
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, ctypes.byref(filled), 0, 0):  # NO_NEW_PRIVS; SECCOMP, FILTER
        raise OSError(ctypes.get_errno(), "prctl")


def die_with(parent):
    """End when the grader does, however that ends."""
    import ctypes
    import signal

    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:  # it has ended before this
        os._exit(1)


def drop_capabilities():
    """Where root runs the grader: no privileges of its, such as raising limits or reaching into other processes."""
    import ctypes

    header = ctypes.create_string_buffer(struct.pack("=Ii", 0x20080522, 0))  # version 3, this process
    if ctypes.CDLL(None, use_errno=True).capset(header, ctypes.create_string_buffer(24)):
        raise OSError(ctypes.get_errno(), "capset")


def restrict_files(handled, paths):
    """Restrict this process by Landlock; handled, paths: see `landlock.rules`."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)

    def call(*arguments):
        done = libc.syscall(*arguments)
        if done < 0:
            raise OSError(ctypes.get_errno(), "landlock")
        return done

    used = max(i + 1 for i, rights in enumerate(handled) if rights)  # a kernel refuses fields that it does not know
    rules = call(444, struct.pack(f"{used}Q", *handled[:used]), ctypes.c_size_t(8 * used), 0)
    for path, rights in paths:
        place = os.open(path, os.O_PATH | os.O_CLOEXEC)
        call(445, rules, 1, struct.pack("=Qi", rights, place), 0)
        os.close(place)
    libc.prctl(38, 1, 0, 0, 0)  # NO_NEW_PRIVS
    call(446, rules, 0)
    os.close(rules)


if __name__ == "__main__":
    main()
