"""The memory that control groups leave a process, in a made-up file system."""

import math

import pytest

from mtl_cli.training import batch_tokens
from mtl_cli.training.group_memory import bytes_left_in_groups

JOB = "system.slice/slurmstepd.scope/job_7"


def machine(root, groups, lines):
    """Write /proc/self/cgroup and the files of groups: folder -> name -> content."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))
    for folder, files in groups.items():
        path = root / "sys/fs/cgroup" / folder
        path.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (path / name).write_text(f"{content}\n")
    return root


def of_v2(limit, used):
    return {"memory.max": limit, "memory.current": used}


def of_v1(limit, used):
    return {"memory.limit_in_bytes": limit, "memory.usage_in_bytes": used}


@pytest.mark.parametrize(
    ("groups", "lines", "expected"),
    [
        # The job's limit leaves 600, that of its step 500, and its task has none.
        (
            {
                JOB: of_v2(1000, 400),
                f"{JOB}/step_0": of_v2(600, 100),
                f"{JOB}/step_0/user/task_0": of_v2("max", 90),
                f"{JOB}/step_1": of_v2(10, 5),  # another one's
            },
            [f"0::/{JOB}/step_0/user/task_0"],
            500,
        ),
        # A container: its own group is the topmost that it sees, under whatever name the machine has for it.
        ({"": of_v2(1000, 300)}, ["0::/"], 700),
        ({"": of_v2(1000, 300)}, ["0::/../../kubepods/pod_3"], 700),
        # The first version has a tree for each controller, and a huge number for no limit.
        (
            {"memory": of_v1(2**63 - 4096, 900), "memory/slurm/job_7": of_v1(2000, 800), "pids/slurm/job_7": {}},
            ["9:cpu,cpuacct:/", "4:memory:/slurm/job_7", "1:name=systemd:/x:y"],
            1200,
        ),
        # Files that were read and are not in use are given back, those of groups below, too.
        ({"": of_v2(1000, 900) | {"memory.stat": "anon 100\ninactive_file 600\nactive_file 200"}}, ["0::/"], 700),
        (
            {"memory": of_v1(1000, 900) | {"memory.stat": "inactive_file 1\ntotal_inactive_file 600"}},
            ["4:memory:/"],
            700,
        ),
        ({"": of_v2("max", 300)}, ["0::/"], math.inf),
        ({}, ["0::/nowhere"], math.inf),
        ({}, [], math.inf),
    ],
)
def test_the_least_that_a_group_or_one_above_it_leaves_counts(tmp_path, groups, lines, expected):
    assert bytes_left_in_groups(machine(tmp_path, groups, lines)) == expected


def test_a_machine_without_groups_has_no_limit(tmp_path):
    assert bytes_left_in_groups(tmp_path) == math.inf


def test_measuring_on_a_cpu_uses_no_more_than_groups_leave(monkeypatch):
    monkeypatch.setattr(batch_tokens, "bytes_left_in_groups", lambda: 12_345)
    assert batch_tokens._free_bytes(batch_tokens.torch.device("cpu")) == 12_345
