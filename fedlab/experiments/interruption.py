"""What an interrupt leaves, in one sentence instead of the traceback of what was being computed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["Interrupted", "explained"]


class Interrupted(KeyboardInterrupt):
    """A training was interrupted; the message says what is kept. In a script it ends the program like Ctrl-C."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a traceback."""
        return [str(self)]


@contextmanager
def explained(kept: Callable[[], str]) -> Iterator[None]:
    """Raise `Interrupted` with what is kept, in words, where Ctrl-C or the stop button of a notebook interrupts.

    Of nested ones the outermost speaks: a study, not the grid in it.
    """
    try:
        yield
    except KeyboardInterrupt as error:
        text = f"Interrupted: {kept()}. Run this again, and it resumes after the last finished round."
        raise Interrupted(text).with_traceback(error.__traceback__) from None
