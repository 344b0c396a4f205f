"""In a child: becoming the program of a run that is not kept; and what became of it."""

import os

import _files as files
import _interpreters as interpreters
import _processes as processes
import _python as python


def become(request, theirs):
    """In a child: be the program of a run that is not kept."""
    os.environ.update(request["env"])
    if request.get("cpu"):
        processes.limit_cpu(request["cpu"])
    if request["mode"] == "fork":
        python.run_once(request, theirs)
    else:
        _execute(request, theirs)


def decode(status):
    if status is None:
        return None, None
    if os.WIFSIGNALED(status):
        return None, os.WTERMSIG(status)
    return os.WEXITSTATUS(status), None


def _execute(request, theirs):
    """In the child: write the program down, if its build has not, and become `argv`."""
    processes.adopt(theirs[:3])
    files.enter_workspace()
    file = os.path.join(interpreters.CODE_DIRECTORY, request["file"])
    out = os.path.join(interpreters.CODE_DIRECTORY, request.get("out") or "main")
    try:
        if not request.get("written"):
            interpreters.write_program(file, request["code"])
    except OSError as error:
        os.write(2, f"sandbox: the program could not be written to /tmp: {error.strerror}\n".encode())
        os._exit(126)
    argv = [item.replace("{file}", file).replace("{out}", out) for item in request["argv"]] + request["args"]
    try:
        interpreters.execute(argv)
    except OSError as error:
        os.write(2, f"sandbox: {argv[0]}: {error.strerror}\n".encode())
        os._exit(127)
