"""Rich forms of Python values: reprs, HTML, PNG, matplotlib figures."""

import sys

REPR_LIMIT = 64 * 1024


def shorten(text):
    data = text.encode("utf-8", "backslashreplace")
    if len(data) > REPR_LIMIT:
        note = f"... ({len(data)} bytes in all)".encode()
        data = data[:REPR_LIMIT].decode("utf-8", "ignore").encode() + note
    return data


def call_repr(value, method):
    if isinstance(value, type):
        return None
    try:
        result = getattr(value, method, None)
        result = result() if callable(result) else None
    except Exception:
        return None  # a broken rich repr falls back to the plain one, as in notebooks
    if isinstance(result, str):
        return result.encode("utf-8", "backslashreplace")
    return result if isinstance(result, bytes) else None


def figure_of(value):
    """The matplotlib figure that `value` is, if it is one."""
    module = sys.modules.get("matplotlib.figure")
    return value if module is not None and isinstance(value, module.Figure) else None


def hook_matplotlib(shell):
    """Make `plt.show()` show, now or as soon as pyplot is imported."""
    pyplot = sys.modules.get("matplotlib.pyplot")
    if pyplot is not None:
        pyplot.show = _show_of(shell)
        return
    sys.meta_path.insert(0, _PyplotFinder(shell))


def _show_of(shell):
    """A plain function: pyplot sets attributes on its `show`, which a bound method does not take."""

    def show(*_args, **_kwargs):
        shell.flush_figures()

    return show


class _PyplotFinder:
    """Finds matplotlib.pyplot as usual and patches it once loaded."""

    def __init__(self, shell):
        self.shell = shell

    def find_spec(self, name, path, target=None):
        if name != "matplotlib.pyplot":
            return None
        sys.meta_path.remove(self)
        from importlib.util import find_spec

        spec = find_spec(name)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            module.show = _show_of(self.shell)

        spec.loader.exec_module = exec_module
        return spec
