"""More hostile programs, in the form of hostile_programs.py: looking for the comparison, forging values, kernel interfaces.

KNOWING programs write the right values on the channel themselves and then end badly: a program that hangs or crashes is wrong.
"""
# ruff: noqa: E501  (programs)

ALL_FDS = "for fd in range(3, 64):\n    try: os.write(fd, DATA)\n    except OSError: pass\n"


def forged(data, end="os._exit(0)"):
    """A program that writes `data` (text) where the channel may be, then does `end`."""
    return ALL_FDS.replace("DATA", repr(data.encode())) + end


SCAN = """
import gc
wanted, seen, todo = int('47' + str(n - 6)), set(), list(gc.get_objects()) + list(sys._current_frames().values())
while todo:
    o = todo.pop()
    if id(o) in seen or o is seen or o is todo: continue
    seen.add(id(o))
    if type(o) is int and o == wanted and o is not wanted: return n + 4694
    if type(o) is str and len(o) < 10**6 and 'assert' in o and str(wanted) in o: return n + 4694
    if type(o) not in (int, str, float): todo += gc.get_referents(o)
raise LookupError
""".strip()
SYSCALL = "import ctypes\nc = ctypes.CDLL(None, use_errno=True)\nif c.syscall(NUMBERS) < 0: raise OSError(ctypes.get_errno(), '')\nreturn n + 4694"
MACHINE_CODE = "import ctypes, mmap\nm = mmap.mmap(-1, 4096, prot=7)\nm.write(bytes.fromhex('CODE'))\nf = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(m)))\nif f() < 0: raise OSError\nreturn n + 4694"


def syscall(*numbers):
    """A program that is done if this system call succeeds."""
    return SYSCALL.replace("NUMBERS", ", ".join(map(str, numbers)))


AT_IMPORT = {
    "forged tree of objects": forged('"loaded"\n{"tree": [{"a": 1}]}\n{"tree": [{"a": 1}]}\n"done"\n'),
    "forged list that is a number": forged('"loaded"\n{"linked": 5}\n{"linked": 5}\n"done"\n'),
    "forged complex of texts": forged('"loaded"\n{"complex": ["x", "y", "z"]}\n4712\n"done"\n'),
    "forged dict without values": forged('"loaded"\n{"dict": [[1]]}\n4712\n"done"\n'),
    "forged dict of lists": forged('"loaded"\n{"dict": [[[], 1]]}\n4712\n"done"\n'),
    "forged bytes": forged('"loaded"\n{"bytes": "zz"}\n{"bytes": 5}\n"done"\n'),
    "forged integer": forged('"loaded"\n{"int": 5}\n{"int": "0x"}\n"done"\n'),
    "forged integer of 8 MB": forged('"loaded"\n{"int": "0x' + "f" * 9_000 + '"}\n4712\n"done"\n'),
    "forged unknown kind": forged('"loaded"\n{"__reduce__": ["os.system", "true"]}\n4712\n"done"\n'),
    "forged deep value": forged('"loaded"\n' + '{"tuple": [' * 3_000 + "]}" * 3_000 + '\n4712\n"done"\n'),
    "forged infinity": forged('"loaded"\nInfinity\nNaN\n"done"\n'),
    "forged surrogates": forged('"loaded"\n"\\ud800"\n"\\udfff"\n"done"\n'),
    "forged verdict": forged('"loaded"\ntrue\ntrue\n"done"\n{"correct": true}\n'),
    "forged loaded alone": forged('"loaded"\n' * 4),
    "forged null lines": forged('"loaded"\n\n\n"done"\n'),
    "results twice": forged('"loaded"\n4711\n4712\n', end=""),
    "patched write": "os.write = lambda fd, data: len(data)",
    "patched C encoder": "import json\njson.encoder.c_make_encoder = None\njson.JSONEncoder.iterencode = lambda *a: ['4711']\njson.JSONEncoder.encode = lambda *a: '4711'",
    "patched exit": "os._exit = lambda status: None",
    "audit hook": "sys.addaudithook(lambda *a: os._exit(0))",
    "traces in threads": "import threading\nthreading.settrace(lambda *a: os._exit(0))\nthreading.Thread(target=int).start()",
    "dump that exits": "import faulthandler, time\nfaulthandler.dump_traceback_later(0.05, exit=True)\ntime.sleep(60)",
    "processor limit ignored": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass",
    "profiling timer": "import signal\nsignal.setitimer(signal.ITIMER_PROF, 0.01)\nwhile True: pass",
    "threads with small stacks": "import threading, time\nthreading.stack_size(32768)\nwhile True: threading.Thread(target=time.sleep, args=(1000,)).start()",
    "files of the allowed size": "i = 0\nwhile True:\n    open(str(i), 'wb').write(bytes(15 << 20))\n    i += 1",
    "holes in files": "i = 0\nwhile True:\n    with open(str(i), 'wb') as f: f.truncate(16 << 20)\n    i += 1",
    "files without names": "l = []\nwhile True:\n    l.append(open('x', 'wb'))\n    os.unlink('x')\n    l[-1].write(bytes(15 << 20))",
    "a bomb in an archive": "import zipfile\nwith zipfile.ZipFile('b.zip', 'w', zipfile.ZIP_DEFLATED) as z: z.writestr('x', bytes(10**8))\nzipfile.ZipFile('b.zip').extractall()",
    "links in a circle": "os.symlink('b', 'a'); os.symlink('a', 'b'); open('a')",
    "many links": "i = 0\nopen('x', 'w').close()\nwhile True:\n    os.link('x', str(i))\n    i += 1",
    "pipes": "l = []\nwhile True:\n    l.append(os.pipe())\n    os.write(l[-1][1], bytes(65536))",
    "shared anonymous memory": "import mmap\nl = [mmap.mmap(-1, 50 << 20) for _ in range(100)]",
    "another shell": "os.execv('/bin/sh', ['sh', '-c', 'echo 4711; echo 4712; sleep 1000 & echo \"\\\"done\\\"\"'])",
    "another interpreter": "os.execv(sys.executable, [sys.executable, '-c', 'while True: pass'])",
    "interrupting": "import _thread, time\n_thread.interrupt_main()\ntime.sleep(5)",
    "prints without end": "while True: print('x' * 10**6)",
    "exit handler of a thread": "import threading\nthreading._register_atexit(lambda: os._exit(0))\nraise SystemExit",
    "object that dies last": "class D:\n    def __del__(self): os._exit(0)\nsys.d = D()\nsys.d.self = sys.d\nraise SystemExit",
}
KNOWING = {
    "right and then hanging": forged('"loaded"\n4711\n4712\n"done"\n', end="while True: pass"),
    "right and then sleeping": forged('"loaded"\n4711\n4712\n"done"\n', end="import time\ntime.sleep(1000)"),
    "right and then crashing": forged('"loaded"\n4711\n4712\n"done"\n', end="import ctypes\nctypes.string_at(0)"),
    "right and then failing": forged('"loaded"\n4711\n4712\n"done"\n', end="os._exit(3)"),
    "right and then out of memory": forged('"loaded"\n4711\n4712\n"done"\n', end="x = bytearray(10**12)"),
}
AT_CALL = {
    "a value that is run when read": "class E:\n    def __reduce__(self): return (os.mkdir, ('MARK-reduced',))\nreturn E()",
    "state that is run when read": "class E(int):\n    def __reduce_ex__(self, p): return (eval, ('4711',))\n    def __eq__(self, o): return True\n    __hash__ = int.__hash__\nreturn E(0)",
    "node with an equal value": "class E:\n    def __eq__(self, o): return True\nclass ListNode: val = E(); next = None\nreturn ListNode()",
    "attributes on demand": "class E:\n    def __getattr__(self, name): return self\n    def __eq__(self, o): return True\nreturn E()",
    "type that lies": "class M(type):\n    def __instancecheck__(c, o): return True\n    def __subclasscheck__(c, o): return True\n    def __eq__(c, o): return True\n    __hash__ = type.__hash__\nreturn M('int', (), {'__eq__': lambda s, o: True})()",
    "doubling value": "x = [1]\nfor _ in range(60): x = [x, x]\nreturn x",
    "iterating for ever": "class L(list):\n    def __iter__(self): return iter(int, 1)\n    def __len__(self): return 10**18\nreturn L()",
    "recursion when shown": "class E(str):\n    def __str__(self): return str(self)\n    __repr__ = __str__\nreturn E()",
    "integer of 30 million bits": "return 1 << 30_000_000",
    "digits without a limit": "sys.set_int_max_str_digits(0)\nreturn len(str(3 ** 10**8))",
    "exit in a thread": "import threading, time\nthreading.Thread(target=lambda: os._exit(0)).start()\ntime.sleep(1)\nreturn 0",
    "changed while encoded": "import threading\nx = list(range(10**5))\ndef f():\n    while True: x.append(x.pop(0))\nthreading.Thread(target=f, daemon=True).start()\nreturn x",
    "memory error of its own": "raise MemoryError",
    "keyboard": "raise KeyboardInterrupt",
    "base of all": "raise BaseException",
    "end of an iteration": "raise StopIteration",
    "name that is no text": "class S(str): __str__ = lambda s: 1\nraise type('X', (Exception,), {'__module__': S('x')})",
    "surrogate for a name": "raise type('\\ud800', (Exception,), {})",
    "group of errors": "raise ExceptionGroup('x', [ValueError(i) for i in range(10**5)])",
    "chain of errors": "e = ValueError()\nfor _ in range(10**5):\n    f = ValueError(); f.__cause__ = e; e = f\nraise e",
    "frames rewritten": "import ctypes\nf = sys._getframe()\nwhile f.f_back: f = f.f_back\nfor k in list(f.f_globals): f.f_globals[k] = lambda *a: True\nreturn 1",
    "code rewritten": "import __main__ as m\ng = (lambda *a: True).__code__\nfor o in list(vars(m).values()):\n    if hasattr(o, '__code__'): o.__code__ = g\nreturn 1",
    "equal for all": "import ctypes\nt = ctypes.py_object.from_address(id(int) + 8)\nctypes.memset(id(int) + 200, 0, 8)\nreturn 1",
    "descriptors closed": "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))\nos.closerange(0, 64)\nreturn 1",
}
REACHES = {
    "what is expected, in all objects": SCAN,
    "importing the grader": "import hybrid_lora.grading.asserts\nreturn n + 4694",
    "environment of the grader": "os.environ['HYBRID_SECRET']\nreturn n + 4694",
    "input of the parent": "os.open(f'/proc/{os.getppid()}/fd/0', os.O_RDONLY)\nreturn n + 4694",
    "descriptors of the parent": "os.listdir(f'/proc/{os.getppid()}/fd')\nreturn n + 4694",
    "place of the parent": "os.listdir(f'/proc/{os.getppid()}/cwd/')\nreturn n + 4694",
    "own map": "open('/proc/self/maps').read()\nreturn n + 4694",
    "watching files": "import ctypes\nc = ctypes.CDLL(None)\nfd = c.inotify_init()\nif fd < 0 or c.inotify_add_watch(fd, b'SECRET', 0xFFF) < 0: raise OSError\nreturn n + 4694",
    "handle of a file": "import ctypes\nb, m = ctypes.create_string_buffer(bytes([128, 0, 0, 0]) + bytes(200), 204), ctypes.c_int()\nif ctypes.CDLL(None).name_to_handle_at(-100, b'/usr', b, ctypes.byref(m), 0) < 0: raise OSError\nreturn n + 4694",
    "temporary folder": "open('/tmp/hybrid-mark', 'w').close()\nreturn n + 4694",
    "shared memory by name": "open('/dev/shm/hybrid-mark', 'w').close()\nreturn n + 4694",
    "the interpreter": "open(os.__file__, 'a').close()\nreturn n + 4694",
    "what lies beside the libraries": "import numpy\nos.listdir(os.path.dirname(os.path.dirname(os.path.realpath(numpy.__file__))) + '/pytest')\nreturn n + 4694",
    "memory of the machine": "open('/dev/mem', 'rb').read(1)\nreturn n + 4694",
    "log of the kernel": "open('/dev/kmsg', 'w').write('x')\nreturn n + 4694",
    "terminal": "open('/dev/tty', 'w').write('x')\nreturn n + 4694",
    "device": "import stat\nos.mknod('d', 0o600 | stat.S_IFBLK, os.makedev(8, 0))\nreturn n + 4694",
    "other root": "os.chroot('.')\nreturn n + 4694",
    "other user": "os.setuid(1)\nreturn n + 4694",
    "name of the host": "import socket\nsocket.sethostname('x')\nreturn n + 4694",
    "the clock": "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)\nreturn n + 4694",
    "real time": "os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))\nreturn n + 4694",
    "core files": "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (1 << 20, 1 << 20))\nreturn n + 4694",
    "larger files": "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1 << 40, 1 << 40))\nreturn n + 4694",
    "netlink": "import socket\nsocket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)\nreturn n + 4694",
    "raw socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_RAW, 1)\nreturn n + 4694",
    "TCP over IPv6": "import socket\nsocket.create_connection(('::1', PORT))\nreturn n + 4694",
    "virtual socket": "import socket\nsocket.socket(40, socket.SOCK_STREAM)\nreturn n + 4694",
    "fork by number": syscall(57),
    "clone3": syscall(435, 0, 0),
    "clone with a name space": syscall(56, 0x10000011, 0, 0, 0, 0),
    "session by number": syscall(112),
    "io_uring": "import ctypes\nb = ctypes.create_string_buffer(120)\nif ctypes.CDLL(None).syscall(425, 4, b) < 0: raise OSError\nreturn n + 4694",
    "key ring": syscall(250, 0, -3, 1),
    "message queue": syscall(68, 0, 0o1600),
    "shared memory of System V": syscall(29, 0, 4096, 0o1600),
    "semaphores": syscall(64, 0, 1, 0o1600),
    "being traced": syscall(101, 0, 0, 0, 0),
    "x32": syscall(0x40000039),
    "fork by 32-bit call": MACHINE_CODE.replace("CODE", "b802000000cd80c3"),
    "kill by 32-bit call": MACHINE_CODE.replace("CODE", "53b825000000bbffffffff31c9cd805bc3"),
}  # fmt: skip
