"""Our errors as Dagster's failures: the message for a person, the advice and fields beside it."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from k2_dagster.errors import K2Error, TransientError

# Name of the fact whether the same may succeed later.
TRANSIENT = "transient"


@contextmanager
def as_failures() -> Iterator[None]:
    """A K2Error ends the step with its message, instead of a stack trace that leads into a library."""
    try:
        yield
    except K2Error as error:
        raise dg.Failure(
            description=error.message,
            metadata={
                "error": type(error).__name__,
                "advice": error.advice or "none",
                TRANSIENT: isinstance(error, TransientError),
            },
            allow_retries=False,
        ) from error
