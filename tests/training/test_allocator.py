"""What happens to memory that tensors have freed."""

import platform
import subprocess
import sys

import pytest

from mtl_cli.training import allocator

PROGRAM = """
import psutil, torch
from mtl_cli.training.allocator import keep_freed_memory
if {keep}:
    assert keep_freed_memory()
process = psutil.Process()
before = process.memory_info().rss
block = torch.ones(2**26)  # 256 MiB
del block
print((process.memory_info().rss - before) // 2**20)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
@pytest.mark.parametrize("keep", [True, False])
def test_freed_memory_stays_with_the_process_where_it_is_told_to(keep):
    program = PROGRAM.format(keep=keep)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert (int(found.stdout) > 200) == keep


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not allocator.keep_freed_memory()
