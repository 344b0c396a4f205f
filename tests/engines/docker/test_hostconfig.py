"""Every row of the hardening table, in the payload that the engine gets."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sandbox_server.engines.base import Owner
from sandbox_server.engines.docker.hostconfig import (
    MASKED_PATHS,
    READONLY_PATHS,
    UIDS,
    cgroup_parent,
    create_payload,
)
from sandbox_server.engines.docker.seccomp import load_seccomp
from sandbox_server.engines.profile import MIB, Profile, SandboxLimits
from sandbox_server.errors import ConfigError
from sandbox_server.shipped import shipped

OWNER = Owner("prod", "boot-1")
SECCOMP = load_seccomp(shipped("images") / "seccomp.json")


PYTHON = Profile("python")


def payload(profile: Profile = PYTHON, **changes: Any) -> dict[str, Any]:
    known: dict[str, Any] = {
        "image": "sha256:abc",
        "uid": 10007,
        "owner": OWNER,
        "deadline": 1234.5,
        "seccomp": SECCOMP,
        "cgroup_driver": "cgroupfs",
        "cgroup_version": "1",
    }
    return create_payload(profile, **{**known, **changes})


HOST_ROWS = {
    "Privileged": False,
    "CapAdd": [],
    "CapDrop": ["ALL"],
    "ReadonlyRootfs": True,
    "NetworkMode": "none",
    "IpcMode": "private",
    "CgroupnsMode": "private",
    "PidMode": "",
    "UTSMode": "",
    "UsernsMode": "",
    "Memory": 256 * MIB,
    "MemorySwap": 256 * MIB,
    "MemorySwappiness": 0,
    "NanoCpus": 1_000_000_000,
    "PidsLimit": 64,
    "ShmSize": 16 * MIB,
    "OomScoreAdj": 500,
    "OomKillDisable": False,
    "LogConfig": {"Type": "none", "Config": {}},
    "RestartPolicy": {"Name": "no", "MaximumRetryCount": 0},
    "AutoRemove": False,
    "Init": False,
    "Runtime": "runc",
    "CgroupParent": "/sbx-prod",
}
EMPTY_ROWS = (
    "Binds", "Mounts", "VolumesFrom", "Devices", "DeviceRequests", "DeviceCgroupRules", "GroupAdd", "Links",
    "ExtraHosts", "Dns", "DnsOptions", "DnsSearch", "Sysctls", "PortBindings", "StorageOpt",
)  # fmt: skip


@pytest.mark.parametrize(("field", "value"), HOST_ROWS.items())
def test_host_config_holds(field: str, value: object) -> None:
    assert payload()["HostConfig"][field] == value


@pytest.mark.parametrize("field", EMPTY_ROWS)
def test_host_config_keeps_empty(field: str) -> None:
    assert not payload()["HostConfig"][field]


def test_the_container_runs_as_its_own_user_without_network_terminal_or_name() -> None:
    body = payload()
    assert body["User"] == "10007:10007"
    assert body["Image"] == "sha256:abc"
    assert (body["Hostname"], body["Domainname"], body["WorkingDir"]) == ("sandbox", "", "/workspace")
    assert body["NetworkDisabled"] is True
    assert body["Tty"] is False
    assert body["OpenStdin"] is body["StdinOnce"] is True
    assert (body["StopSignal"], body["StopTimeout"]) == ("SIGKILL", 0)
    assert body["Healthcheck"] == {"Test": ["NONE"]}
    assert not body.keys() & {"Entrypoint", "Cmd", "MacAddress", "Shell"}


def test_security_options_are_no_new_privileges_and_our_own_profile() -> None:
    options = payload()["HostConfig"]["SecurityOpt"]
    assert options[0] == "no-new-privileges:true"
    name, _, text = options[1].partition("=")
    assert name == "seccomp"
    assert json.loads(text)["defaultAction"] == "SCMP_ACT_ERRNO"
    assert len(options) == 2


def test_both_tmpfs_are_sized_capped_in_inodes_and_executable() -> None:
    limits = SandboxLimits(workspace=10 * MIB, tmp=5 * MIB, inodes=4000)
    tmpfs = payload(Profile("python", limits))["HostConfig"]["Tmpfs"]
    assert tmpfs.keys() == {"/workspace", "/tmp"}
    workspace, tmp = (set(tmpfs[path].split(",")) for path in ("/workspace", "/tmp"))
    assert {"nosuid", "nodev", "exec", f"size={10 * MIB}", "nr_inodes=4000"} <= workspace
    assert {"mode=0700", "uid=10007", "gid=10007"} <= workspace
    assert {"nosuid", "nodev", "exec", f"size={5 * MIB}", "nr_inodes=1000", "mode=1777"} <= tmp


def test_ulimits() -> None:
    limits = SandboxLimits(open_files=99, file_size=7 * MIB)
    table = {
        row["Name"]: (row["Soft"], row["Hard"])
        for row in payload(Profile("python", limits))["HostConfig"]["Ulimits"]
    }
    assert table == {
        "core": (0, 0),
        "fsize": (7 * MIB, 7 * MIB),
        "memlock": (65536, 65536),
        "msgqueue": (0, 0),
        "nofile": (99, 99),
        "rtprio": (0, 0),
        "sigpending": (128, 128),
        "stack": (8 * MIB, 64 * MIB),
    }


def test_the_masked_paths_hold_the_engines_default_and_more() -> None:
    default = {
        "/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
        "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware", "/proc/interrupts",
        "/sys/devices/virtual/powercap",
    }  # fmt: skip
    masked = payload()["HostConfig"]["MaskedPaths"]
    assert default < set(masked) == set(MASKED_PATHS)
    assert {"/proc/kallsyms", "/sys/kernel"} <= set(masked)


def test_the_cgroup_files_stay_readable_for_the_runner() -> None:
    hidden = [*MASKED_PATHS, *READONLY_PATHS]
    assert not [path for path in hidden if "/sys/fs/cgroup".startswith(path) or path.startswith("/sys/fs")]


def test_kernel_knobs_are_read_only() -> None:
    expected = {"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
    assert set(payload()["HostConfig"]["ReadonlyPaths"]) == expected


def test_the_environment_is_a_fixed_list_and_nothing_of_the_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hunter2")
    environment = dict(item.split("=", 1) for item in payload()["Env"])
    assert environment.keys() == {
        "PATH", "HOME", "USER", "LOGNAME", "LANG", "TZ", "TMPDIR", "MPLBACKEND", "MPLCONFIGDIR",
        "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "PYTHONDONTWRITEBYTECODE",
    }  # fmt: skip
    assert environment["HOME"] == "/workspace"
    assert (environment["USER"], environment["TZ"], environment["LANG"]) == ("sandbox", "UTC", "C.UTF-8")


@pytest.mark.parametrize(("cpus", "threads"), [(0.5, "1"), (1, "1"), (2, "2"), (3.7, "3")])
def test_numeric_libraries_start_a_thread_per_core_of_the_sandbox(cpus: float, threads: str) -> None:
    body = payload(Profile("python", SandboxLimits(cpus=cpus)))
    assert f"OMP_NUM_THREADS={threads}" in body["Env"]
    assert f"OPENBLAS_NUM_THREADS={threads}" in body["Env"]
    assert body["HostConfig"]["NanoCpus"] == cpus * 1e9


def test_labels_say_whose_it_is_and_until_when() -> None:
    assert payload(Profile("python", revision="r7"))["Labels"] == {
        "sbx.instance": "prod",
        "sbx.boot_id": "boot-1",
        "sbx.deadline": "1235",
        "sbx.policy_rev": "r7",
        "sbx.uid": "10007",
    }


def test_cgroup_v2_gets_no_swappiness_which_it_does_not_have() -> None:
    host = payload(cgroup_version="2")["HostConfig"]
    assert "MemorySwappiness" not in host
    assert host["MemorySwap"] == host["Memory"]


@pytest.mark.parametrize(
    ("instance", "driver", "parent"),
    [
        ("prod", "cgroupfs", "/sbx-prod"),
        ("a-b", "cgroupfs", "/sbx-a-b"),
        ("prod", "systemd", "sbx-prod.slice"),
        ("a-b", "systemd", "sbx-a_b.slice"),
    ],
)
def test_all_sandboxes_of_an_instance_share_a_control_group(instance: str, driver: str, parent: str) -> None:
    assert cgroup_parent(Owner(instance, "b"), driver) == parent


def test_only_what_the_operator_does_without_is_left_out() -> None:
    full = payload()["HostConfig"]
    without = payload(missing=frozenset({"pids", "swap"}))["HostConfig"]
    assert full.keys() - without.keys() == {"PidsLimit", "MemorySwap", "MemorySwappiness"}
    assert {**full, **without} == full


sizes = st.integers(min_value=1, max_value=2**50)
limits = st.builds(
    SandboxLimits,
    memory=sizes,
    cpus=st.floats(min_value=0.01, max_value=512),
    pids=sizes,
    workspace=sizes,
    tmp=sizes,
    shm=sizes,
    inodes=sizes,
    open_files=sizes,
    file_size=sizes,
)
profiles = st.builds(
    Profile,
    image=st.text(),
    limits=limits,
    runtime=st.sampled_from(["runc", "runsc"]),
    preload=st.lists(st.text(), max_size=3).map(tuple),
    revision=st.text(),
)
DEPENDENT = {
    "Memory", "MemorySwap", "NanoCpus", "PidsLimit", "ShmSize", "Ulimits", "Tmpfs", "Runtime",
}  # fmt: skip


@given(profile=profiles, uid=st.sampled_from(UIDS))
def test_no_profile_can_change_more_than_the_numbers(profile: Profile, uid: int) -> None:
    body, standard = payload(profile, uid=uid), payload()
    assert body.keys() == standard.keys()
    assert {k for k in body if body[k] != standard[k]} <= {"User", "Env", "Labels", "HostConfig"}
    host, standard_host = body["HostConfig"], standard["HostConfig"]
    assert host.keys() == standard_host.keys()
    assert {k for k in host if host[k] != standard_host[k]} <= DEPENDENT
    assert host["Tmpfs"].keys() == standard_host["Tmpfs"].keys()
    for options in host["Tmpfs"].values():
        assert {"nosuid", "nodev"} <= set(options.split(","))
    assert [e.split("=")[0] for e in body["Env"]] == [e.split("=")[0] for e in standard["Env"]]


@given(image=st.text(), preload=st.lists(st.text(), max_size=3).map(tuple), revision=st.text())
def test_text_of_a_profile_reaches_nothing_but_the_revision_label(
    image: str, preload: tuple[str, ...], revision: str
) -> None:
    plain = Profile("python")
    body = payload(replace(plain, image=image, preload=preload, revision=revision))
    assert body["Labels"].pop("sbx.policy_rev") == revision
    standard = payload(plain)
    standard["Labels"].pop("sbx.policy_rev")
    assert body == standard


@pytest.mark.parametrize("text", ["", "[]", '{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": []}', "{"])
def test_a_seccomp_profile_that_does_not_deny_by_default_is_refused(tmp_path: Any, text: str) -> None:
    path = tmp_path / "seccomp.json"
    path.write_text(text)
    with pytest.raises(ConfigError):
        load_seccomp(path)
