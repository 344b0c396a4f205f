"""What the supervisor's loop waits for: descriptors, each with a callback for each direction."""

import select

import _wire as wire

OUT_HIGH_WATER = 1024 * 1024


class Loop:
    def __init__(self, wire_out):
        self.poll = select.poll()
        self.out = wire.Writer(wire_out)
        self.readers = {}
        self.writers = {}

    def watch_wire_out(self):
        if self.out.pending:
            self.poll.register(self.out.fd, select.POLLOUT)
        else:
            self._forget(self.out.fd)

    def on_readable(self, fd, callback):
        self.readers[fd] = callback
        self.poll.register(fd, select.POLLIN)

    def on_writable(self, fd, callback):
        self.writers[fd] = callback
        self.poll.register(fd, select.POLLOUT)

    def ignore(self, fd):
        self.readers.pop(fd, None)
        self.writers.pop(fd, None)
        self._forget(fd)

    def _forget(self, fd):
        try:
            self.poll.unregister(fd)
        except KeyError:
            pass

    @property
    def congested(self):
        """The host reads more slowly than programs write: hold the pipes back."""
        return self.out.pending > OUT_HIGH_WATER
