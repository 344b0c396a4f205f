# ruff: noqa: E501 - programs in strings
"""Packages from the real indexes, over the way out of real sandboxes, by a policy that names them by alias."""

from __future__ import annotations

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest

from sandbox_server.errors import InvalidRequest, PackagesFailed, PolicyDenied
from sandbox_server.execution.api import Caller
from sandbox_server.execution.models import SessionLimits, SessionRequest
from tests.access.egress.package_place import Place, open_place

pytestmark = pytest.mark.anyio
ME = Caller()


@pytest.fixture(scope="module")
async def place(anyio_backend: str, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Place]:
    async with open_place(tmp_path_factory.mktemp("packages")) as place:
        yield place


@pytest.fixture
async def connection(place: Place) -> AsyncIterator[str]:
    connection = uuid4().hex
    yield connection
    await place.manager.close_connection(connection)


async def test_a_wheel_is_installed_before_the_run_and_imported(place: Place) -> None:
    result = await place.run("import six; print(six.__version__)", "six==1.17.0")
    assert result.outcome == "ok", result.stderr.text
    assert result.stdout.text == "1.17.0\n"
    assert result.packages is not None
    assert result.packages.installed == (("six", "1.17.0"),)
    assert result.packages.complete
    assert 0 < result.packages.seconds < 60
    assert result.artifacts == ()


async def test_the_second_install_of_the_same_wheel_is_local(place: Place) -> None:
    await place.run("1", "six==1.16.0")
    hits = place.cache.hits
    result = await place.run("import six; print(six.__version__)", "six==1.16.0")
    assert result.stdout.text == "1.16.0\n"
    assert result.packages is not None
    assert result.packages.cached == place.cache.hits - hits > 0


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("javascript", "console.log(require('left-pad')('x', 3, '.'))"),
        ("typescript", "import pad from 'left-pad'; const s: string = pad('x', 3, '.'); console.log(s)"),
        ("javascript", "import('left-pad').then(m => console.log(m.default('x', 3, '.')))"),
    ],
)
async def test_an_npm_package_is_installed_and_found_by_require_and_import(
    place: Place, language: str, code: str
) -> None:
    result = await place.run(code, "left-pad@^1.3.0", language=language)
    assert (result.outcome, result.stdout.text) == ("ok", "..x\n"), result.stderr.text
    assert result.packages is not None
    assert result.packages.installed == (("left-pad", "1.3.0"),)


async def test_an_npm_package_of_a_scope_is_installed(place: Place) -> None:
    code = "console.log(require('@types/ms/package.json').name)"
    result = await place.run(code, "@types/ms", language="javascript")
    assert (result.outcome, result.stdout.text) == ("ok", "@types/ms\n"), result.stderr.text


async def test_in_a_session_packages_stay_for_the_next_call(place: Place, connection: str) -> None:
    await place.run("x = 1", connection=connection)
    result = await place.run("import six; print(x, six.__version__)", "six==1.17.0", connection=connection)
    assert result.stdout.text == "1 1.17.0\n", result.stderr.text
    result = await place.run("print(six.moves.range(1))", connection=connection)
    assert result.stdout.text == "range(0, 1)\n"


async def test_a_session_can_be_made_with_packages(place: Place) -> None:
    view = await place.manager.sessions.create(
        SessionRequest(packages=("six==1.17.0",)), caller=ME, on_event=lambda _: None
    )
    assert "six 1.17.0" in view.info.note
    result = await place.run("import six; print(six.__version__)", session=view.info.id)
    assert result.stdout.text == "1.17.0\n"
    place.manager.sessions.close(view.info.id or "", caller=ME)


async def test_a_session_that_can_not_have_its_packages_is_not_made(place: Place) -> None:
    before = place.manager.sessions.list(caller=ME)
    with pytest.raises(PackagesFailed, match="No matching distribution"):
        await place.manager.sessions.create(
            SessionRequest(packages=("no-such-package-at-all-1x",)), caller=ME, on_event=lambda _: None
        )
    assert place.manager.sessions.list(caller=ME) == before


@pytest.mark.parametrize(
    ("install", "language", "look", "shown"),
    [
        ("import subprocess as s; print(s.run(['pip', 'install', '-q', 'click']).returncode)", "python", "import click; print(click.__name__)", "click\n"),
        ("pip install -q click && echo 0", "bash", "python3 -c 'import click; print(click.__name__)'", "click\n"),
        ("require('child_process').execSync('npm install left-pad'); console.log(0)", "javascript", "console.log(require('left-pad')('x', 2, '-'))", "-x\n"),
    ],
)  # fmt: skip
async def test_plain_installs_work_in_a_session(
    place: Place, connection: str, install: str, language: str, look: str, shown: str
) -> None:
    result = await place.run(install, connection=connection, language=language)
    assert (result.outcome, result.stdout.text) == ("ok", "0\n"), result.stderr.text
    result = await place.run(look, connection=connection, language=language)
    assert result.stdout.text == shown, result.stderr.text


async def test_nothing_runs_for_a_package_that_is_not_granted(place: Place) -> None:
    with pytest.raises(PolicyDenied, match="requests") as denied:
        await place.run("print(1)", "six", "requests")
    assert denied.value.rule == "code.packages"
    assert "code.packages" in denied.value.hint


async def test_packages_need_a_way_out(place: Place) -> None:
    with pytest.raises(PolicyDenied) as denied:
        await place.run("print(1)", "six", language="python-inside")
    assert denied.value.rule == "code.egress"


@pytest.mark.parametrize("name", ["six @ https://example.com/six.whl", "-rfile", "../six", "git+https://x/y"])
async def test_places_and_options_are_no_packages(place: Place, name: str) -> None:
    with pytest.raises(InvalidRequest, match="no URL, path or option"):
        await place.run("print(1)", name)


async def test_other_languages_have_no_packages(place: Place) -> None:
    with pytest.raises(InvalidRequest, match="none for bash"):
        await place.run("echo", "six", language="bash")


async def test_a_package_that_would_have_to_be_built_is_not_installed(place: Place) -> None:
    result = await place.run("print('ran')", "docopt")
    assert result.outcome == "packages_failed"
    assert "docopt" in result.stderr.text
    assert result.stdout.text == ""
    assert result.packages is not None
    assert not result.packages.complete


async def test_scripts_of_packages_do_not_run(place: Place) -> None:
    """esbuild's would make its program another file."""
    code = "const fs = require('fs'); console.log(fs.readFileSync('/node_modules/esbuild/bin/esbuild').subarray(0, 2).toString())"
    result = await place.run(code, "esbuild@0.21.5", language="javascript")
    assert (result.outcome, result.stdout.text) == ("ok", "#!\n"), result.stderr.text


async def test_what_the_image_has_is_not_replaced(place: Place) -> None:
    result = await place.run("print('ran')", "numpy<2")
    assert result.outcome == "packages_failed"
    assert "constraint" in result.stderr.text


async def test_packages_that_do_not_fit_into_the_workspace_say_so(place: Place) -> None:
    small = SessionRequest(limits=SessionLimits(workspace=8 * 1024**2))
    view = await place.manager.sessions.create(small, caller=ME, on_event=lambda _: None)
    result = await place.run("print('ran')", "plotly", session=view.info.id)
    assert (result.outcome, result.limit, result.stdout.text) == ("disk_full", "disk", ""), result.stderr.text
    place.manager.sessions.close(view.info.id or "", caller=ME)


async def test_the_time_of_an_installation_counts(place: Place) -> None:
    result = await place.run("print('ran')", "six", wall=0.2)
    assert (result.outcome, result.limit, result.stdout.text) == ("timeout", "wall", "")


async def test_settings_that_lie_in_the_workspace_do_not_hold(place: Place, connection: str) -> None:
    trap = (
        "import os; os.makedirs('.config/pip'); open('.config/pip/pip.conf', 'w').write('[global]\\nindex-url = http://127.0.0.1:1/x\\n');"
        "open('pip.py', 'w').write('raise SystemExit(99)'); open('six', 'w').close()"
    )
    await place.run(trap, connection=connection)
    result = await place.run("import six; print(six.__version__)", "six==1.17.0", connection=connection)
    assert result.stdout.text == "1.17.0\n", result.stderr.text


async def test_programs_reach_nothing_but_the_indexes(place: Place) -> None:
    code = """
import urllib.request
try:
    urllib.request.urlopen("https://example.com/", timeout=10)
    print("reached")
except OSError as error:
    print("refused")
"""
    result = await place.run(code)
    assert result.stdout.text == "refused\n"
    assert place.records[-1].verdict == "denied"
