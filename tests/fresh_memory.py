"""Memory that is certainly new: an allocator may hand out again what a long test run has given back."""

from __future__ import annotations

import mmap

MIB = 2**20


def fresh_memory(num_mib: int) -> mmap.mmap:
    """Return so many MiB of touched pages; `close` gives them back to the system."""
    block = mmap.mmap(-1, num_mib * MIB)
    for _ in range(num_mib):
        block.write(b"\1" * MIB)
    return block
