"""Python code in a forked child: cells, tracebacks without our frames, rich results.

Everything here runs in the program's own process; nothing that it reports is trusted.
"""

import ast
import atexit
import builtins
import errno
import gc
import importlib
import io
import json
import linecache
import os
import random
import signal
import socket
import struct
import sys
import threading
import traceback
import types
import warnings

import _processes as processes
import _rich as rich
from _files import WORKSPACE, enter_workspace

PACKAGES = f"{WORKSPACE}/.packages/lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages"
"""Where `pip install` puts what it installs here: see PYTHONUSERBASE in the image."""

VALUE, DISPLAY, NO_SPACE = 1, 2, 3
DISPLAY_LIMIT = 8 * 1024 * 1024
OURS = [name.removesuffix(".py") for name in os.listdir(os.path.dirname(__file__)) if name.startswith("_")]
TOP_LEVEL_AWAIT = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
CO_COROUTINE = 0x80
WRITERS = (io.TextIOWrapper, io.BufferedWriter, io.BufferedRandom)
CELL_FDS = ("code", "stdin", "stdout", "stderr", "side")


def pack(request):
    """A run request as `serve_cells` takes it, as bytes."""
    return json.dumps(request).encode()


def run_once(request, fds):
    """Run the program in this process, which ends with its exit code."""
    side = _side_channel(fds[3])
    processes.adopt(fds[:3], keep=(side,))
    shell = Shell(side)
    code = shell.run(request)
    shell.module = None
    _finish(code)


def serve_cells(control, become):
    """Run cells from the control socket (a descriptor) until it closes.

    A request without `keep`, which can only be the first, is no cell: this process becomes its program
    by `become(request, fds)`, which does not return."""
    processes.adopt((os.open("/dev/null", os.O_RDWR),) * 3, keep=(control,))
    channel = socket.socket(fileno=control)
    _rehearse()
    shell = None
    reserve = ()
    granted = ()
    myself = os.getpid()
    gc.freeze()  # so that a collection looks at the program's objects only
    while True:
        for fd in reserve:
            os.close(fd)
        token, fds, _flags, _address = socket.recv_fds(channel, 64, len(CELL_FDS))
        if not token:
            os._exit(0)
        code_fd, *streams = fds
        with open(code_fd, "rb") as file:
            cell = json.loads(file.read())
        if not cell.get("keep"):
            become(cell, streams)
            return
        for name in granted:
            os.environ.pop(name, None)
        granted = tuple(cell["env"])
        os.environ.update(cell["env"])
        side = streams.pop()
        for target, fd in enumerate(streams):
            os.dup2(fd, target)
            os.close(fd)
        os.set_inheritable(side, False)
        # Held back from programs that open all they can and keep it: the next cell must get in.
        reserve = [os.open("/dev/null", os.O_RDONLY) for _ in CELL_FDS]
        shell = shell or Shell(side)
        shell.side = side
        # SystemExit ends the cell, not the interpreter: the session's state is worth more.
        code = _interruptible(shell, cell)
        _flush()
        if os.getpid() != myself:
            os._exit(code)  # a fork that the cell has made ends with it
        _detach(side)
        _flush()  # what the cell could not write any more must not turn up in the next one
        channel.send(b"%s %d" % (token, code))


def _interruptible(shell, cell):
    """A cell can be interrupted, this loop can't: a SIGINT that comes late must not end the interpreter."""
    try:
        try:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            return shell.run(cell)
        finally:
            signal.signal(signal.SIGINT, _stay)
    except KeyboardInterrupt:
        return 130


def _stay(_number, _frame):
    """Not SIG_IGN, which programs that are started would inherit."""


def _rehearse():
    """Do once, for nobody, what every program needs: what a fork shares is copied when it is first written,
    and that is better done before anybody waits."""
    _open_streams()
    eval(compile(ast.parse("print(1)", "main.py"), "main.py", "exec", TOP_LEVEL_AWAIT), {})
    _flush()


def _side_channel(fd):
    import fcntl

    return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 20)


def _detach(side):
    """Let go of the cell's pipes, so that they end with the cell."""
    os.close(side)
    null = os.open("/dev/null", os.O_RDWR)
    for target in range(3):
        os.dup2(null, target)
    os.close(null)


def _flush():
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass  # closed or broken by the program: its own affair


def _finish(code):
    """End as the interpreter would: join threads, run atexit, flush, exit."""
    try:
        threading._shutdown()
        atexit._run_exitfuncs()
    except SystemExit as error:
        code = _exit_code(error)
    except BaseException:
        traceback.print_exc()
        code = code or 1
    _flush()
    try:
        _let_go()
    except BaseException:
        pass  # as an interpreter that ends does not fail for what comes too late
    _flush()
    os._exit(code)


def _let_go():
    """What the program still holds ends as with its interpreter: `__del__` runs, open files are written."""
    sys.excepthook = sys.__excepthook__
    for name in ("last_exc", "last_value", "last_traceback"):
        vars(sys).pop(name, None)
    _flush_files()  # a collector ends what is in a cycle in any order: the file before its buffer, too
    # Not cleared name by name: what runs as it ends may still use the others.
    del sys.modules["__main__"]
    gc.collect()
    _flush_files()


def _flush_files():
    for stream in gc.get_objects():
        if type(stream) in WRITERS and not stream.closed:
            try:
                stream.flush()
            except (OSError, ValueError):
                pass  # it is not to be written, or there is no room


def _exit_code(error):
    if error.code is None:
        return 0
    if isinstance(error.code, int):
        return error.code & 0xFF
    try:
        print(error.code, file=sys.stderr)
    except Exception:
        pass  # closed or broken by the program, whose exit code is the same
    return 1


class Shell:
    """A namespace that code runs in, as `__main__`."""

    def __init__(self, side):
        self.side = side
        self.count = 0
        self.displayed = 0
        _become_a_program()
        self.module = types.ModuleType("__main__")
        self.module.__builtins__ = builtins
        self.module.display = self.display
        sys.modules["__main__"] = self.module
        rich.hook_matplotlib(self)

    def run(self, cell):
        """Run one cell; returns its exit code."""
        self.count += 1
        self.displayed = 0
        _open_streams()
        if os.path.isdir(PACKAGES):
            importlib.invalidate_caches()  # something may have been installed since the last cell
        name = cell["file"] if self.count == 1 else f"cell-{self.count}.py"
        sys.argv = [name, *cell["args"]]
        source = cell["code"]
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        try:
            value = self._execute(source, name)
            if value is not None:
                self.module._ = value
                self.display(value, is_result=True)
            self.flush_figures()
        except SystemExit as error:
            return self._exit(error)
        except KeyboardInterrupt:
            _print_trimmed()
            return 130
        except BaseException as error:
            self._note_no_space(error)
            return _print_trimmed()
        return 0

    def _note_no_space(self, error):
        """Say that lack of space ended the program: once it has ended, that can't be seen any more."""
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            try:
                self._send(NO_SPACE, b"")
            except OSError:
                pass  # the program has closed it

    def _exit(self, error):
        try:
            self.flush_figures()
        except Exception:
            _print_trimmed()
        return _exit_code(error)

    def _execute(self, source, name):
        # Not `ast.parse`, whose frame would be the traceback of a SyntaxError.
        tree = compile(source, name, "exec", ast.PyCF_ONLY_AST | TOP_LEVEL_AWAIT)
        last = None
        if tree.body and isinstance(tree.body[-1], ast.Expr) and not source.rstrip().endswith(";"):
            last = ast.Expression(tree.body.pop().value)
        self._evaluate(compile(tree, name, "exec", TOP_LEVEL_AWAIT))
        if last is not None:
            return self._evaluate(compile(last, name, "eval", TOP_LEVEL_AWAIT))
        return None

    def _evaluate(self, code):
        result = eval(code, self.module.__dict__)
        if code.co_flags & CO_COROUTINE:
            import asyncio

            return asyncio.run(result)
        return result

    # --- rich output

    def display(self, value, *, is_result=False):
        """Show a value: its PNG or HTML form if it has one, and its repr if it is the result."""
        figure = rich.figure_of(value)
        if figure is not None:
            self._send_figure(figure)
        else:
            for mime, method in (("image/png", "_repr_png_"), ("text/html", "_repr_html_")):
                data = rich.call_repr(value, method)
                if data is not None:
                    self.send_display(mime, data)
                    break
        if is_result:
            self._send(VALUE, rich.shorten(repr(value)))
        elif figure is None:
            print(repr(value))

    def flush_figures(self):
        """Send every open matplotlib figure and close it: what `plt.show()` does here."""
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is None:
            return
        for number in pyplot.get_fignums():
            self._send_figure(pyplot.figure(number))
        pyplot.close("all")

    def _send_figure(self, figure):
        buffer = io.BytesIO()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            figure.savefig(buffer, format="png", bbox_inches="tight")
        self.send_display("image/png", buffer.getvalue())
        pyplot = sys.modules.get("matplotlib.pyplot")
        if pyplot is not None:
            pyplot.close(figure)

    def send_display(self, mime, data):
        if len(data) > DISPLAY_LIMIT:
            print(f"sandbox: a display of {len(data)} bytes is too large to show", file=sys.stderr)
            return
        self._send(DISPLAY, mime.encode() + b"\0" + data)

    def _send(self, kind, body):
        view = memoryview(struct.pack(">BI", kind, len(body)) + body)
        while view:
            view = view[os.write(self.side, view) :]


def _become_a_program():
    """Make this fork of the runner look and behave like a fresh interpreter."""
    for name in OURS:
        sys.modules.pop(name, None)
    paths = [path for path in sys.path if path and not path.startswith("/opt/sandbox")]
    # Before what the image has, where an interpreter of its own would look for it.
    place = next((index for index, path in enumerate(paths) if "-packages" in path), len(paths))
    sys.path[:] = [WORKSPACE, *paths[:place], PACKAGES, *paths[place:]]
    enter_workspace()
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    # Forks of one interpreter would all draw the same "random" numbers.
    random.seed()
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None:
        numpy_random.seed()


def _open_streams():
    """Fresh stream objects: the last cell may have closed or replaced them."""
    sys.stdin = sys.__stdin__ = open(0, encoding="utf-8", errors="surrogateescape", closefd=False)
    sys.stdout = sys.__stdout__ = open(
        1, "w", encoding="utf-8", errors="surrogateescape", buffering=1, closefd=False
    )
    sys.stderr = sys.__stderr__ = open(
        2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False
    )


def _print_trimmed():
    """Print the exception that is being handled, without our own frames at its top; returns the exit code."""
    kind, error, trace = sys.exc_info()
    while trace is not None and trace.tb_frame.f_code.co_filename == __file__:
        trace = trace.tb_next
    try:
        sys.last_exc = error
        if sys.excepthook is sys.__excepthook__:
            traceback.print_exception(kind, error.with_traceback(trace), trace)
        else:
            _call_excepthook(kind, error.with_traceback(trace), trace)
    except SystemExit as exit:
        return _exit_code(exit)
    except BaseException:
        try:
            os.write(2, b"an exception whose traceback could not be printed\n")
        except OSError:
            pass  # the program has closed its stderr
    return 1


def _call_excepthook(kind, error, trace):
    """The program's own; if that fails, both exceptions are shown, as Python does."""
    try:
        sys.excepthook(kind, error, trace)
    except SystemExit:
        raise
    except BaseException as failure:
        print("Error in sys.excepthook:", file=sys.stderr)
        inner = failure.__traceback__ and failure.__traceback__.tb_next
        traceback.print_exception(type(failure), failure.with_traceback(inner), inner)
        print("\nOriginal exception was:", file=sys.stderr)
        traceback.print_exception(kind, error, trace)
