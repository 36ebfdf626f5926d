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


SWITCHES = """
import psutil, torch
from mtl_cli.training.allocator import freed_memory_as_by_default, keep_freed_memory
keep_freed_memory()
process = psutil.Process()

def stays():
    before = process.memory_info().rss
    block = torch.ones(2**26)  # 256 MiB
    del block
    return (process.memory_info().rss - before) // 2**20

with freed_memory_as_by_default():
    print(stays())
print(stays())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep what is freed")
def test_for_a_while_freed_memory_is_given_back_as_by_default():
    found = subprocess.run([sys.executable, "-c", SWITCHES], capture_output=True, text=True, check=True)
    within, after = map(int, found.stdout.split())
    assert within < 20
    assert after > 200


def test_other_c_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(allocator.platform, "libc_ver", lambda: ("musl", "1.2"))
    assert not allocator.keep_freed_memory()
