"""What is in the images, asked from inside."""

from __future__ import annotations

import json

import docker
import pytest

from sandbox_server.images.recipes import DEFAULT
from tests.images.conftest import Run

every_image = pytest.mark.parametrize("name", DEFAULT)


@every_image
def test_no_file_can_raise_privileges(run: Run, built: dict[str, str], name: str) -> None:
    # As one who may read every directory; python3 is in the list to prove that find saw the tree.
    found = run(
        built[name], "find", "/", "-xdev", "(", "-perm", "/6000", "-o", "-path", "/usr/bin/python3", ")",
        "-print", user=0, capabilities=["DAC_READ_SEARCH"],
    )  # fmt: skip
    assert found.splitlines() == ["/usr/bin/python3"]


@every_image
def test_nothing_outside_the_tmpfs_belongs_to_or_is_writable_by_a_sandbox_user(
    run: Run, built: dict[str, str], name: str
) -> None:
    script = (
        "find / -xdev ( -perm -0002 -o -uid +9999 -o -gid +9999 ) ! -type l "
        "! -path /tmp ! -path /workspace ! -path /var/tmp -print 2>/dev/null; echo asked"
    ).replace("( ", r"\( ").replace(" )", r" \)")  # fmt: skip
    found = run(built[name], "sh", "-c", script)
    assert [line for line in found.splitlines() if not line.startswith(("/dev", "/run/lock"))] == ["asked"]


@every_image
def test_every_uid_of_the_range_has_a_name_and_a_home(run: Run, built: dict[str, str], name: str) -> None:
    for uid in (10000, 10007, 10255, 10511):
        who = run(
            built[name],
            "python3",
            "-c",
            "import getpass, os; print(getpass.getuser(), os.path.expanduser('~sandbox'), os.getgid())",
            user=uid,
        )
        assert who.split() == ["sandbox", "/workspace", str(uid)]


@every_image
def test_it_starts_the_runner_and_nobody_but_root_can_change_it(
    run: Run, built: dict[str, str], client: docker.DockerClient, name: str
) -> None:
    config = client.images.get(built[name]).attrs["Config"]
    assert config["Entrypoint"] == ["/usr/bin/python3", "-I", "-u", "/opt/sandbox/runner.py"]
    assert not config["Cmd"]
    assert config["User"] == "10000:10000"
    listed = run(built[name], "find", "/opt/sandbox", "-printf", r"%p %u %g %M\n").splitlines()
    assert "/opt/sandbox/runner.py root root -rw-r--r--" in listed
    assert [line for line in listed if " root root " not in line or line.endswith(("w-", "wx"))] == []


@every_image
def test_it_holds_python_313_and_no_trace_of_the_host_that_built_it(
    run: Run, built: dict[str, str], name: str
) -> None:
    assert run(built[name], "python3", "--version").startswith("Python 3.13.")
    left = run(
        built[name],
        "sh",
        "-c",
        "ls -d /etc/machine-id /var/lib/dbus/machine-id /build /wheels 2>/dev/null; "
        "find / -xdev -name '*.whl' 2>/dev/null; ls /var/lib/apt/lists 2>/dev/null; "
        "echo asked",
    )
    assert left.split() == ["asked"]


@every_image
def test_it_records_the_packages_that_it_got(run: Run, built: dict[str, str], name: str) -> None:
    packages = dict(
        line.split("\t") for line in run(built[name], "cat", "/usr/share/sandbox/packages.txt").splitlines()
    )
    assert packages["python3"].startswith("3.13.")
    assert ("nodejs" in packages) == (name == "node")
    assert ("jq" in packages) == (name in ("shell", "python"))


def test_python_packages_import_quickly_and_without_a_warning(run: Run, built: dict[str, str]) -> None:
    program = """
import json, os, time, warnings
warnings.simplefilter("error")
begun = time.monotonic()
import numpy, pandas, matplotlib.pyplot as plt
quick = time.monotonic() - begun
import PIL, pytest, requests, scipy.stats, sklearn.linear_model
figure = plt.figure()
plt.plot([1, 2], label="grün")
plt.legend()
plt.savefig("/workspace/plot.png")
with open("/workspace/plot.png", "rb") as plot:
    png = plot.read(4).hex()
home = os.listdir("/workspace")
print(json.dumps({"quick": quick, "backend": plt.get_backend(), "home": home, "png": png}))
"""
    # stderr is in the output too: a line from matplotlib's logger would break the JSON.
    said = json.loads(run(built["python"], "python3", "-c", program))
    assert said["backend"] == "agg"
    assert said["home"] == ["plot.png"]
    assert said["png"] == "89504e47"
    assert said["quick"] < 5  # some 0.4 s here; building the font list or byte code anew takes longer


def test_python_modules_are_compiled_ahead(run: Run, built: dict[str, str]) -> None:
    program = (
        "import sys, importlib.util, os, pandas, sklearn, scipy.stats\n"
        "origins = [m.__spec__.origin for m in list(sys.modules.values()) if getattr(m, '__spec__', None)]\n"
        "sources = [o for o in origins if o and o.endswith('.py')]\n"
        "cached = importlib.util.cache_from_source\n"
        "print(len(sources) > 300, [s for s in sources if not os.path.exists(cached(s))])"
    )
    assert run(built["python"], "python3", "-c", program).strip() == "True []"


def test_node_is_version_20(run: Run, built: dict[str, str]) -> None:
    assert run(built["node"], "node", "--print", "process.version").startswith("v20.")


@pytest.mark.parametrize("name", ["shell", "python"])
def test_the_shell_has_its_tools_and_git_works_for_a_sandbox_user(
    run: Run, built: dict[str, str], name: str
) -> None:
    script = """
set -e
for tool in awk bc bzip2 curl diff file find git gzip jq less patch ps rg sed sqlite3 tar unzip xz zip; do
    command -v "$tool" >/dev/null || echo "no $tool"
done
cd && git init -q here && cd here && git commit -q --allow-empty -m first 2>&1 || true
git -c user.email=a@example.com commit -q --allow-empty -m second && git log --format=%an
echo '{"a": [1, 2]}' | jq -c .a
"""
    lines = run(built[name], "bash", "-c", script).splitlines()
    assert [line for line in lines if line.startswith("no ")] == []
    assert lines[-2:] == ["sandbox", "[1,2]"]
