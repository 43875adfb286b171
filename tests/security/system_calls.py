"""System calls (x86-64 numbers) by which a program could leave its jail, watch others or take what is theirs.

Each becomes an attack of `attacks.REFUSED`: called raw, through ctypes, it must fail. Arguments are the least with which the call
would succeed for somebody, so that a jail without seccomp would let some of them through.
"""

from __future__ import annotations

SYSTEM_CALLS: dict[str, str] = {
    # other processes
    "pidfd_getfd": "438, 3, 0, 0",
    "pidfd_send_signal": "424, 3, 9, 0, 0",
    "process_vm_writev": "311, 1, 0, 0, 0, 0, 0",
    "process_madvise": "440, 3, 0, 0, 21, 0",
    "kcmp_parent": "312, 1, 2, 0, 0, 0",
    "tgkill_group": "234, 1, 1, 9",
    "tkill_parent": "200, 1, 9",
    "queue_signal_to_parent": "129, 1, 9, 0",
    "trace_me": "101, 0, 0, 0, 0",
    "stop_self": "62, 1, 19",
    "clone3": "435, 0, 0",
    "setns": "308, 3, 0",
    "setsid": "112",
    "set_process_group": "109, 0, 0",
    "move_pages_of_parent": "279, 1, 0, 0, 0, 0, 0",
    # exec without a file
    "execveat_of_a_memfd": "322, libc.syscall(319, b'x', 0), b'', 0, 0, 0x1000",
    "memfd_secret": "447, 0",
    # descriptors of others, and signals through descriptors
    "receive_descriptors": "47, 3, 0, 0",
    "send_descriptors": "46, 3, 0, 0",
    "abstract_socket": "49, libc.syscall(41, 1, 1, 0), b'\\x01\\x00\\x00owned', 8",
    "socketpair_by_syscall": "53, 1, 1, 0, ctypes.create_string_buffer(8)",
    "signalfd": "289, -1, ctypes.create_string_buffer(8), 8, 0",
    "eventfd": "290, 0, 0",
    "timerfd": "283, 1, 0",
    "epoll": "291, 0",
    "fanotify": "300, 0, 0",
    "posix_timer": "222, 1, 0, ctypes.create_string_buffer(8)",
    "asynchronous_io": "206, 1, ctypes.create_string_buffer(8)",
    "posix_queue": "240, b'/owned', 66, 0o666, 0",
    "sysv_queue": "68, 1, 0o1666",
    "sysv_semaphore": "64, 1, 1, 0o1666",
    # files
    "open_by_handle": "304, -100, ctypes.create_string_buffer(64), 0",
    "name_to_handle": "303, -100, b'.', ctypes.create_string_buffer(64), ctypes.create_string_buffer(8), 0",
    "openat2": "437, -100, b'.', ctypes.create_string_buffer(24), 24",
    "file_system_open": "430, b'tmpfs', 0",
    "move_a_mount": "429, 3, b'', -100, b'/', 4",
    "writable_root_again": "442, -100, b'/', 0, ctypes.create_string_buffer(32), 32",
    "reserve_disk": "285, libc.open(b'f', 66, 0o600), 0, 0, 1 << 20",
    "punch_through_sendfile": "40, 5, 3, 0, 100",
    "copy_file_range": "326, 3, 0, 5, 0, 100, 0",
    "extended_attribute": "188, b'.', b'user.owned', b'x', 1, 0",
    "change_owner": "92, b'.', 0, 0",
    "set_file_times": "280, -100, b'.', 0, 0",
    "advisory_lock": "73, 3, 2",
    # memory and scheduling
    "lock_memory": "149, 0, 4096",
    "lock_all_memory": "151, 3",
    "raise_own_limit": "302, 0, 9, ctypes.create_string_buffer(b'\\xff' * 16), 0",
    "limit_of_parent": "302, 1, 9, ctypes.create_string_buffer(16), 0",
    "real_time_scheduling": "144, 0, 1, ctypes.create_string_buffer(b'\\x01\\x00\\x00\\x00')",
    "take_every_core": "203, 0, 8, ctypes.create_string_buffer(b'\\xff' * 8)",
    "io_priority": "251, 1, 0, 0",
    "personality_without_randomised_addresses": "135, 0x0040000",
    "local_descriptor_table": "154, 1, ctypes.create_string_buffer(16), 16",
    # the kernel itself
    "io_uring_register": "427, 3, 0, 0, 0",
    "add_key": "248, b'user', b'owned', b'x', 1, -4",
    "request_key": "249, b'user', b'owned', 0, 0",
    "loosen_seccomp": "317, 1, 0, 0",
    "dumpable_again": "157, 4, 1, 0, 0",
    "outlive_the_server": "157, 1, 0, 0, 0",
    "child_reaper": "157, 36, 1, 0, 0",
    "io_ports": "172, 3",
    "kernel_log": "103, 3, ctypes.create_string_buffer(100), 100",
    "accounting_file": "163, b'/owned'",
    "swap": "167, b'/owned', 0",
    "load_kernel": "246, 0, 0, 0, 0",
    "new_root_key": "450, 0, 0, 0",
}
