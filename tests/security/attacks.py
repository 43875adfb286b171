"""Programs that try to get out of the sandbox, exhaust the machine or forge a verdict.

Three kinds, by what must happen:
- `REFUSED`: the body of a function that returns 'escaped' if it gets anywhere. The jail must make it raise, or see nothing.
- `EXHAUSTING`: programs that never answer well. The verdict must be wrong, in bounded time.
- `FORGING`: programs that do not know the answer and try to be judged right all the same. The verdict must be wrong.
"""

from __future__ import annotations

import textwrap

from pipeline_lib.sandbox.limits import Limits
from pipeline_lib.types import Outcome, Verdict
from tests.security.system_calls import SYSTEM_CALLS


def _function(body: str) -> str:
    """`f()`: 'escaped' when the body returns it, 'contained' when the body raises or returns nothing."""
    return (
        "def f():\n    try:\n"
        + textwrap.indent(textwrap.dedent(body).strip("\n"), " " * 8)
        + "\n    except BaseException:\n        pass\n    return 'contained'\n"
    )


_SYSCALL = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall({call}) >= 0:
    return 'escaped'
"""

_REFUSED_BODIES: dict[str, str] = {
    # network
    "tcp_socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_STREAM)\nreturn 'escaped'",
    "udp_socket": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nreturn 'escaped'",
    "unix_socket": "import socket\nsocket.socket(socket.AF_UNIX)\nreturn 'escaped'",
    "socketpair": "import socket\nsocket.socketpair()\nreturn 'escaped'",
    "netlink_socket": "import socket\nsocket.socket(16, 3, 0)\nreturn 'escaped'",
    "raw_socket": "import socket\nsocket.socket(socket.AF_PACKET, socket.SOCK_RAW)\nreturn 'escaped'",
    "name_lookup": "import socket\nsocket.getaddrinfo('localhost', 80)\nreturn 'escaped'",
    "urlopen": "import urllib.request\nurllib.request.urlopen('http://127.0.0.1:80/', timeout=1)\nreturn 'escaped'",
    "socket_by_syscall": _SYSCALL.format(call="41, 2, 1, 0"),
    # files of the host
    "read_passwd": "open('/etc/passwd').read()\nreturn 'escaped'",
    "read_shadow": "open('/etc/shadow').read()\nreturn 'escaped'",
    "read_hostname_file": "open('/etc/hostname').read()\nreturn 'escaped'",
    "list_home": "import os\nos.listdir('/root')\nreturn 'escaped'",
    "list_work": "import os\nos.listdir('/work')\nreturn 'escaped'",
    "read_canary": "open('{canary}').read()\nreturn 'escaped'",
    "write_canary": "open('{canary}', 'w').write('owned')\nreturn 'escaped'",
    "delete_canary": "import os\nos.unlink('{canary}')\nreturn 'escaped'",
    "write_root": "open('/owned', 'w').write('x')\nreturn 'escaped'",
    "write_stdlib": "import os\nopen(os.path.join(os.path.dirname(os.__file__), 'owned.py'), 'w')\nreturn 'escaped'",
    "patch_stdlib_file": "import os\nopen(os.__file__, 'a').write('x')\nreturn 'escaped'",
    "site_packages": "import os\nd = os.path.join(os.path.dirname(os.__file__), 'site-packages')\nif os.listdir(d):\n    return 'escaped'",
    "list_root": "import os\nos.listdir('/')\nreturn 'escaped'",  # Landlock alone refuses this
    "dot_dot": "import os\nos.chdir('../../../../../..')\nif 'etc' in os.listdir('.'):\n    return 'escaped'",
    "own_sources": "import pipeline_lib.sandbox.harness as h\nopen(h.__file__).read()\nreturn 'escaped'",
    "sys_directory": "import os\nos.listdir('/sys')\nreturn 'escaped'",
    "devices": "import os\nif set(os.listdir('/dev')) - {{'null'}}:\n    return 'escaped'",
    "dev_mem": "open('/dev/mem', 'rb')\nreturn 'escaped'",
    "dev_shm": "open('/dev/shm/owned', 'w')\nreturn 'escaped'",
    "symlink_out": "import os\nos.symlink('/etc', 'link')\nreturn 'escaped'",
    "hardlink": "import os\nopen('a', 'w').close()\nos.link('a', 'b')\nreturn 'escaped'",
    "fifo": "import os\nos.mkfifo('p')\nreturn 'escaped'",
    "device_node": "import os\nos.mknod('d', 0o060666, os.makedev(8, 0))\nreturn 'escaped'",
    "set_uid_file": "import os\nopen('a', 'w').close()\nos.chmod('a', 0o4777)\nreturn 'escaped'",
    # secrets and other processes
    "secret_in_env": "import os\nif 'R1_SECRET' in os.environ or 'PATH' in os.environ:\n    return 'escaped'",
    "proc_environ": "open('/proc/self/environ').read()\nreturn 'escaped'",
    "proc_parent": "import os\nos.listdir('/proc')\nreturn 'escaped'",
    "inherited_descriptors": """
        import os
        for fd in range(6, 32):
            try:
                os.fstat(fd)
            except OSError:
                continue
            return 'escaped'
        """,
    "control_socket": "import socket\nfor fd in range(32):\n    if fd not in (3, 4, 5):\n        socket.socket(fileno=fd)\n        return 'escaped'",
    "ptrace_parent": _SYSCALL.format(call="101, 16, 1, 0, 0"),
    "read_memory_of_parent": _SYSCALL.format(call="310, 2, 0, 0, 0, 0, 0"),
    "pidfd_of_parent": _SYSCALL.format(call="434, 2, 0"),
    # signals
    "kill_everyone": "import os, signal\nos.kill(-1, signal.SIGKILL)\nreturn 'escaped'",
    "kill_parent": "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)\nreturn 'escaped'",
    "kill_group": "import os, signal\nos.killpg(0, signal.SIGKILL)\nreturn 'escaped'",
    "alarm": "import signal\nsignal.setitimer(signal.ITIMER_REAL, 0.01)\nreturn 'escaped'",
    # processes, exec, threads
    "fork": "import os\nif os.fork() == 0:\n    os._exit(0)\nreturn 'escaped'",
    "thread": "import threading\nthreading.Thread(target=print).start()\nreturn 'escaped'",
    "subprocess": "import subprocess\nsubprocess.run(['/bin/true'])\nreturn 'escaped'",
    "os_system": "import os\nif os.system('true') == 0:\n    return 'escaped'",
    "exec": "import os, sys\nos.execv(sys.executable or '/usr/bin/python3', ['python3', '-c', 'pass'])\nreturn 'escaped'",
    "multiprocessing": "import multiprocessing\nmultiprocessing.Pool(1).map(abs, [1])\nreturn 'escaped'",
    "process_pool": "from concurrent.futures import ProcessPoolExecutor\nProcessPoolExecutor(1).submit(abs, 1).result()\nreturn 'escaped'",
    "clone_by_syscall": _SYSCALL.format(call="56, 17, 0, 0, 0, 0"),
    "vfork_by_syscall": _SYSCALL.format(call="58"),
    "execve_by_syscall": _SYSCALL.format(call="59, b'/bin/sh', 0, 0"),
    # namespaces, mounts, privileges
    "new_user_namespace": _SYSCALL.format(call="272, 0x10000000"),
    "new_mount_namespace": _SYSCALL.format(call="272, 0x20000"),
    "mount": _SYSCALL.format(call="165, b'none', b'/', b'tmpfs', 0, 0"),
    "unmount": _SYSCALL.format(call="166, b'/sandbox', 2"),
    "pivot_root": _SYSCALL.format(call="155, b'.', b'.'"),
    "chroot": "import os\nos.chroot('.')\nreturn 'escaped'",
    "open_tree": _SYSCALL.format(call="428, -100, b'/', 1"),
    "become_root": "import os\nos.setuid(0)\nreturn 'escaped'",
    "become_another": "import os\nos.setresuid(1000, 1000, 1000)\nreturn 'escaped'",
    "is_root": "import os\nif os.getuid() == 0 or os.geteuid() == 0 or os.getgid() == 0:\n    return 'escaped'",
    "set_hostname": "import socket\nsocket.sethostname('owned')\nreturn 'escaped'",
    "see_hostname": "import os\nif os.uname().nodename != 'sandbox':\n    return 'escaped'",
    "raise_limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))\nreturn 'escaped'",
    "raise_nice": "import os\nos.nice(-5)\nreturn 'escaped'",
    "drop_seccomp": _SYSCALL.format(call="157, 22, 0, 0, 0, 0"),
    "load_bpf": _SYSCALL.format(call="321, 0, 0, 0"),
    "perf_event": _SYSCALL.format(call="298, 0, 0, 0, 0, 0"),
    "io_uring": _SYSCALL.format(call="425, 1, 0"),
    "userfaultfd": _SYSCALL.format(call="323, 0"),
    "keyring": _SYSCALL.format(call="250, 0, 0, 0, 0, 0"),
    "memfd": "import os\nos.memfd_create('x')\nreturn 'escaped'",
    "shared_memory": "from multiprocessing import shared_memory\nshared_memory.SharedMemory(create=True, size=10)\nreturn 'escaped'",
    "sysv_shared_memory": _SYSCALL.format(call="29, 1, 4096, 0o1666"),
    "inotify": _SYSCALL.format(call="253"),
    "reboot": _SYSCALL.format(call="169, 0xfee1dead, 672274793, 0x1234567, 0"),
    "set_clock": "import time\ntime.clock_settime(time.CLOCK_REALTIME, 0)\nreturn 'escaped'",
    "terminal_injection": "import fcntl\nfcntl.ioctl(0, 0x5412, b'x')\nreturn 'escaped'",
    "module_load": _SYSCALL.format(call="313, 0, b'', 0"),
    **{name: _SYSCALL.format(call=call) for name, call in SYSTEM_CALLS.items()},
    "memory_of_the_harness": "open('/proc/self/mem', 'r+b')\nreturn 'escaped'",
    "map_of_the_harness": "open('/proc/self/maps')\nreturn 'escaped'",
    "own_descriptors_in_proc": "import os\nos.readlink('/proc/self/fd/3')\nreturn 'escaped'",
    "stop_self_by_kill": "import os, signal\nos.kill(os.getpid(), signal.SIGSTOP)\nreturn 'escaped'",
    "raise_signal": "import signal\nsignal.raise_signal(signal.SIGCONT)\nreturn 'escaped'",
    "fork_pty": "import pty\npty.fork()\nreturn 'escaped'",
    "posix_spawn": "import os\nos.posix_spawn('/bin/true', ['true'], {{}})\nreturn 'escaped'",
    "start_daemon_thread": "import _thread\n_thread.start_new_thread(print, ())\nreturn 'escaped'",
    "asyncio_loop": "import asyncio\nasyncio.run(asyncio.sleep(0))\nreturn 'escaped'",
    "sub_interpreter_import": "import numpy\nreturn 'escaped'",
    "import_of_the_project": "import pipeline_lib.rewards\nreturn 'escaped'",
    # disk
    "sparse_file": "f = open('s', 'wb')\nf.seek(1 << 40)\nf.write(b'x')\nf.flush()\nreturn 'escaped'",
    "sparse_file_by_truncate": "open('s', 'wb').truncate(1 << 40)\nreturn 'escaped'",
    "directories": "import os\nfor i in range(5000):\n    os.mkdir(f'd{{i}}')\nreturn 'escaped'",
    "fill_disk": """
        with open('big', 'wb') as file:
            for _ in range(64):
                file.write(bytes(1 << 20))
        return 'escaped'
        """,
    "many_files": "for i in range(5000):\n    open(f'f{{i}}', 'w').close()\nreturn 'escaped'",
    "many_descriptors": "keep = [open('/dev/null') for _ in range(1000)]\nreturn 'escaped'",
    # memory that Python reports as an error it can catch
    "memory_list": "x = [0] * (1 << 30)\nreturn 'escaped'",
    "memory_bytes": "x = bytes(4 << 30)\nreturn 'escaped'",
    "memory_mmap": "import mmap\nx = mmap.mmap(-1, 4 << 30)\nreturn 'escaped'",
    "deep_recursion": "def g(n):\n    return g(n + 1)\ng(0)\nreturn 'escaped'",
    "huge_int_text": "str(10 ** 100000)\nreturn 'escaped'",
}
REFUSED = {
    name: _function(body.replace("{{", "{").replace("}}", "}")) for name, body in _REFUSED_BODIES.items()
}

EXHAUSTING: dict[str, str] = {
    "endless_loop": "def f():\n    while True:\n        pass",
    "endless_loop_at_import": "while True:\n    pass",
    "endless_sleep": "import time\ndef f():\n    time.sleep(10**6)",
    "sleep_that_ignores_signals": "import signal, time\nfor s in range(1, 65):\n    try:\n        signal.signal(s, signal.SIG_IGN)\n    except Exception:\n        pass\ndef f():\n    while True:\n        time.sleep(1)",
    "wait_on_lock": "import threading\ndef f():\n    lock = threading.Lock()\n    lock.acquire()\n    lock.acquire()",
    "read_results_pipe": "import os\ndef f():\n    os.read(4, 1 << 20)\n    os.read(4, 1 << 20)",
    "fork_bomb": "import os\ndef f():\n    while True:\n        os.fork()",
    "thread_bomb": "import threading, time\ndef f():\n    while True:\n        threading.Thread(target=time.sleep, args=(100,)).start()",
    "memory_bomb": "def f():\n    x = []\n    while True:\n        x.append(bytes(1 << 20))",
    "memory_bomb_that_catches": "def f():\n    x = []\n    while True:\n        try:\n            x.append(bytes(1 << 20))\n        except MemoryError:\n            pass",
    "recursion_into_the_stack": "import sys\nsys.setrecursionlimit(10**9)\ndef f():\n    return f()",
    "huge_power": "def f():\n    return 9 ** 9 ** 9",
    "huge_factorial": "import math\ndef f():\n    return math.factorial(10**8)",
    "regex_bomb": "import re\ndef f():\n    return re.match('(a+)+$', 'a' * 50 + 'b')",
    "output_bomb": "def f():\n    while True:\n        print('x' * 100000)",
    "huge_return_value": "def f():\n    return 'x' * (100 << 20)",
    "huge_return_list": "def f():\n    return list(range(10**6))",
    "deep_return_value": "def f():\n    x = []\n    for _ in range(10**5):\n        x = [x]\n    return x",
    "endless_generator_in_result": "import itertools\nclass L(list):\n    def __iter__(self):\n        return itertools.count()\ndef f():\n    return L([1])",
    "cyclic_return_value": "def f():\n    x = []\n    x.append(x)\n    return x",
    "colliding_set": "def f():\n    return {i * (2**61 - 1) for i in range(20000)}",
    "flood_the_pipe": "import os\ndef f():\n    while True:\n        os.write(5, b'x' * 65536)",
    "half_a_frame": "import os\ndef f():\n    os.write(5, b'\\x00\\x00')\n    os._exit(0)",
    "frame_of_four_gigabytes": "import os\ndef f():\n    os.write(5, b'\\xff\\xff\\xff\\xff')\n    os._exit(0)",
    "frame_of_deep_json": "import os, struct\ndef f():\n    body = b'[' * 200000\n    os.write(5, struct.pack('!I', len(body)) + body)\n    os._exit(0)",
    "exec_null_bytes": "exec('\\x00')\ndef f():\n    return 41",
    "segfault": "import ctypes\ndef f():\n    ctypes.string_at(0)",
    "abort": "import os\ndef f():\n    os.abort()",
    "close_everything": "import os\ndef f():\n    os.closerange(0, 100)\n    return 1",
    "endless_finaliser": "class A:\n    def __del__(self):\n        while True:\n            pass\nx = A()\ndef f():\n    global x\n    x = None\n    return 1",
    "endless_comparison": "class A:\n    def __lt__(self, o):\n        while True:\n            pass\ndef f():\n    return sorted([A(), A()])",
    "endless_eq": "class A:\n    def __eq__(self, o):\n        while True:\n            pass\n    __hash__ = None\ndef f():\n    return A() == 1",
    "endless_repr": "class A(int):\n    def __repr__(self):\n        while True:\n            pass\n    __str__ = __index__ = __int__ = __repr__\ndef f():\n    return A(3)",
    "endless_exception_text": "class E(Exception):\n    def __str__(self):\n        while True:\n            pass\ndef f():\n    raise E",
    "parser_bomb": "def f():\n    return eval('(' * 100000)",
    "deep_json": "import json\ndef f():\n    return json.loads('[' * 10**6)",
    "zip_bomb": "import zlib\ndef f():\n    data = bytes(1 << 26)\n    for _ in range(3):\n        data = zlib.compress(data)\n    return len(zlib.decompress(zlib.decompress(zlib.decompress(data))) * 100)",
    "int_of_ten_million_digits": "import sys\nsys.set_int_max_str_digits(0)\ndef f():\n    return int('9' * 10**7)",
    "huge_format_width": "def f():\n    return '%*d' % (2 * 10**9, 1)",
    "stack_smash": "import ctypes\ndef f():\n    ctypes.memset(ctypes.addressof(ctypes.c_char()) & ~4095, 65, 1 << 24)",
    "foreign_system_call": "import ctypes, mmap\ndef f():\n    code = mmap.mmap(-1, 4096, prot=7)\n    code.write(b'\\xb8\\x02\\x00\\x00\\x00\\xcd\\x80\\xc3')\n    return ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))()",
    "x32_system_call": "import ctypes\ndef f():\n    return ctypes.CDLL(None).syscall(0x40000000 + 39)",
    "verdict_from_a_signal_handler": "import json, os, struct\ndef frame(m):\n    b = json.dumps(m).encode()\n    return struct.pack('!I', len(b)) + b\nimport signal\nsignal.signal(signal.SIGXCPU, lambda *a: (os.write(5, frame({'passed': 0})), os._exit(0)))\ndef f():\n    while True:\n        pass",
    "cpu_limit_ignored": "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\ndef f():\n    while True:\n        pass",
}

RUN_TO_THE_LIMIT = frozenset(
    [
        "endless_loop_at_import",
        "sleep_that_ignores_signals",
        "endless_finaliser",
        "zip_bomb",
        "verdict_from_a_signal_handler",
        "endless_comparison",
        "endless_eq",
        "endless_repr",
        "endless_exception_text",
        "int_of_ten_million_digits",
        "wait_on_lock",
        "read_results_pipe",
        "memory_bomb_that_catches",
        "recursion_into_the_stack",
        "huge_power",
        "huge_factorial",
        "regex_bomb",
        "output_bomb",
        "huge_return_value",
        "colliding_set",
        "cpu_limit_ignored",
    ]
)
"""Exhausting programs that take a second or more; `endless_loop` and `endless_sleep` stand for them in a fast run."""


def exhausted_nothing(verdict: Verdict, seconds: float, limits: Limits) -> bool:
    """Is this the verdict that an exhausting program must get, in time?

    A loaded test machine may give it no core at all; that is said, not called wrong.
    """
    starved = verdict.detail == "the machine gave the program no core in time"
    return (starved or verdict.outcome is Outcome.WRONG) and seconds < limits.wall_seconds + 2


ANSWER = 730_421
"""What `f()` should return in the forging attacks. It is in no program."""

_FRAME = "import json, os, struct\ndef frame(m):\n    b = json.dumps(m).encode()\n    return struct.pack('!I', len(b)) + b\n"

FORGING: dict[str, str] = {
    "exit_code_zero": "import os\ndef f():\n    os._exit(0)",
    "exit_zero_at_import": "import os\nos._exit(0)",
    "sys_exit_zero": "import sys\ndef f():\n    sys.exit(0)",
    "system_exit_at_import": "raise SystemExit(0)",
    "always_equal_object": "class A:\n    def __eq__(self, o):\n        return True\n    def __hash__(self):\n        return 0\ndef f():\n    return A()",
    "always_equal_int": "class A(int):\n    def __eq__(self, o):\n        return True\n    __hash__ = int.__hash__\ndef f():\n    return A(1)",
    "always_equal_str": "class A(str):\n    def __eq__(self, o):\n        return True\n    __hash__ = str.__hash__\ndef f():\n    return A('x')",
    "int_that_lies_to_index": "class A(int):\n    def __index__(self):\n        return 1\n    def __eq__(self, o):\n        return True\n    __hash__ = int.__hash__\ndef f():\n    return A(2)",
    "lying_class_attribute": "class A:\n    __class__ = int\n    def __eq__(self, o):\n        return True\ndef f():\n    return A()",
    "print_passed": "def f():\n    print('PASSED')\n    print('{\"passed\": 0}')\n    return 1",
    "forge_a_passed_frame": _FRAME + "def f():\n    os.write(5, frame({'passed': 0}))\n    os._exit(0)",
    "forge_a_true_value": _FRAME + "def f():\n    os.write(5, frame({'value': True}))\n    os._exit(0)",
    "forge_at_import": _FRAME
    + "os.write(5, frame({'loaded': True}) + frame({'value': None}) * 5)\nos._exit(0)",
    "forge_a_refusal": _FRAME + "os.write(5, frame({'refused': 'landlock'}))\nos._exit(0)",
    "forge_a_verifier_error": _FRAME
    + "def f():\n    os.write(5, frame({'verifier_error': 'x'}))\n    os._exit(0)",
    "forge_on_every_descriptor": _FRAME
    + "def f():\n    for fd in range(64):\n        try:\n            os.write(fd, frame({'passed': 0}) * 9)\n        except OSError:\n            pass\n    os._exit(0)",
    "patch_codec": "import pipeline_lib.sandbox.codec as c\nc.encode = lambda v: True\ndef f():\n    return 1",
    "patch_harness": "import pipeline_lib.sandbox.harness as h\nh._answer = lambda *a: True\ndef f():\n    return 1",
    "patch_judge": "import pipeline_lib.sandbox.judge as j\nj._run = lambda *a: None\ndef f():\n    return 1",
    "patch_json": "import json\njson.dumps = lambda *a, **k: '{\"passed\": 0}'\ndef f():\n    return 1",
    "patch_builtins": "import builtins\nbuiltins.eval = lambda *a: True\nbuiltins.AssertionError = KeyError\nbuiltins.isinstance = lambda *a: True\ndef f():\n    return 1",
    "patch_eq_through_gc": "import gc\nfor o in gc.get_objects():\n    if isinstance(o, dict) and 'expected' in o:\n        o['expected'] = 1\ndef f():\n    return 1",
    "search_memory_for_the_answer": "import gc\ndef f():\n    return next((o for o in gc.get_objects() if isinstance(o, int) and o > 700000 and o < 800000), 1)",
    "search_frames_for_the_answer": "import sys\ndef f():\n    g = sys._getframe()\n    while g:\n        for v in list(g.f_locals.values()) + list(g.f_globals.values()):\n            if isinstance(v, int) and 700000 < v < 800000:\n                return v\n        g = g.f_back\n    return 1",
    "search_requests_for_the_answer": "import os, re\ndef f():\n    text = b''\n    for fd in (3, 4):\n        try:\n            os.lseek(fd, 0, 0)\n            text += os.read(fd, 1 << 20)\n        except OSError:\n            pass\n    found = re.findall(rb'7[0-9]{5}', text)\n    return int(found[0]) if found else 1",
    "read_the_tests": "import glob\ndef f():\n    for path in glob.glob('/**/*.py', recursive=True) + glob.glob('/**/*.json*', recursive=True):\n        if '730' + '421' in open(path, errors='replace').read():\n            return int('730' + '421') + 0 * len(path)\n    return 1",
    "trace_hook": "import sys\ndef t(frame, event, arg):\n    return t\nsys.settrace(t)\nsys.setprofile(t)\ndef f():\n    return 1",
    "atexit_hook": "import atexit\natexit.register(print, 'PASSED')\ndef f():\n    return 1",
    "redefine_candidate": "class C:\n    def __call__(self):\n        return True\n    def __eq__(self, o):\n        return True\nf = C()",
    "nan_and_infinity": "def f():\n    return float('nan')",
    "true_for_everything": "def f():\n    return True",
    "generator": "def f():\n    yield 1",
    "exception_with_evil_text": "class E(Exception):\n    def __str__(self):\n        raise SystemExit\ndef f():\n    raise E",
    "keyboard_interrupt": "def f():\n    raise KeyboardInterrupt",
    "infinity": "def f():\n    return float('inf')",
    "negative_zero": "def f():\n    return -0.0",
    "not_implemented": "def f():\n    return NotImplemented",
    "repr_that_forges": "class A:\n    def __repr__(self):\n        return '{\"passed\": 0}'\n    __str__ = __repr__\ndef f():\n    return A()",
    "pickle_payload": "import os\nclass A:\n    def __reduce__(self):\n        return (os._exit, (0,))\ndef f():\n    return A()",
    "pickled_bytes": "def f():\n    return b'cos\\nsystem\\n(S\"touch /tmp/owned\"\\ntR.'",
    "dict_that_lies": "class D(dict):\n    def __eq__(self, o):\n        return True\n    def __ne__(self, o):\n        return False\ndef f():\n    return D(a=1)",
    "list_that_lies": "class L(list):\n    def __eq__(self, o):\n        return True\ndef f():\n    return L([1])",
    "float_that_lies": "class F(float):\n    def __eq__(self, o):\n        return True\n    __hash__ = float.__hash__\ndef f():\n    return F(1)",
    "metaclass_that_lies": "class M(type):\n    def __instancecheck__(self, o):\n        return True\n    def __eq__(self, o):\n        return True\n    __hash__ = type.__hash__\nclass A(metaclass=M):\n    pass\ndef f():\n    return A",
    "forge_at_exit": _FRAME
    + "import atexit\natexit.register(lambda: os.write(5, frame({'passed': 0}) + frame({'value': True})))\ndef f():\n    return 1",
    "forge_in_a_finaliser": _FRAME
    + "class A:\n    def __del__(self):\n        os.write(5, frame({'passed': 0}) + frame({'value': True}))\nx = A()\ndef f():\n    return 1",
    "forge_after_the_answer": _FRAME
    + "def f():\n    os.write(5, frame({'value': 1}) + frame({'passed': 0}) + frame({'value': True}))\n    return True",
    "forge_encoded_values": _FRAME
    + "def f():\n    for v in ([True], {'t': True}, {'__eq__': True}, {'value': {'value': True}}, None):\n        os.write(5, frame({'value': v}))\n    os._exit(0)",
    "swap_the_results_pipe": "import os\nr, w = os.pipe()\nos.dup2(w, 5)\ndef f():\n    return 1",
    "answer_to_the_judge": _FRAME
    + "def f():\n    for fd in (3, 4):\n        try:\n            os.write(fd, frame({'value': True}) + frame({'passed': 0}))\n        except OSError:\n            pass\n    return 1",
    "exception_hook": "import sys\nsys.excepthook = sys.unraisablehook = lambda *a: None\ndef f():\n    raise SystemExit(0)",
    "audit_hook": "import sys\nsys.addaudithook(lambda *a: None)\ndef f():\n    return 1",
    "import_hook": "import sys\nclass H:\n    def find_spec(self, *a):\n        raise SystemExit(0)\nsys.meta_path[:] = [H()]\nsys.modules.clear()\ndef f():\n    return 1",
    "replace_import": "import builtins\nbuiltins.__import__ = lambda *a, **k: __builtins__\ndef f():\n    return 1",
    "replace_builtins_of_the_module": "__builtins__ = {'True': True, 'eval': lambda *a: True}\ndef f():\n    return 1",
    "patch_through_frames": "import sys\ng = sys._getframe()\nwhile g:\n    for k in list(g.f_globals):\n        if k in ('_attempt', '_answer', '_reply', 'describe'):\n            g.f_globals[k] = lambda *a: {'value': True, 'passed': 0}\n    g = g.f_back\ndef f():\n    return 1",
    "patch_code_object": "import pipeline_lib.sandbox.codec as c\nc.encode.__code__ = (lambda value: True).__code__\ndef f():\n    return 1",
    "poison_the_type_of_int": "import ctypes\nctypes.pythonapi.PyType_Modified(ctypes.py_object(int))\ndef f():\n    return 1",
    "rewrite_small_integers": "import ctypes\nctypes.memmove(id(1) + 24, id(0) + 24, 4)\ndef f():\n    return 1",
    "shadow_the_entry_point": "def f():\n    return 1\ncandidate = check = type('T', (), {'__call__': lambda s: True, '__eq__': lambda s, o: True})()",
    "answer_as_text": "def f():\n    return '1'",
    "missing_function": "def g():\n    return 1",
    "syntax_error": "def f(:\n    return 1",
    "not_a_function": "f = 3",
    "surrogates": "def f():\n    return '\\ud800'",
}
