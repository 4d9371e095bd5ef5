"""What the exit status of a `k2` command means."""

from k2_dagster.errors import K2Error, StopOverdue, TransientError, VerificationFailed

FINDING = 1
USAGE = 2
TRANSIENT = 3
TERMINAL = 4
CUT_SHORT = 5
# The system's number for "internal software error" (sysexits.h).
MISTAKE = 70
INTERRUPTED = 130

MEANINGS = {
    0: "done, and nothing to object to",
    FINDING: "done, and there is a finding (verify, check, doctor, status), or a question was answered with no; or who "
    "read the output has gone",
    USAGE: "the command line is wrong",
    TRANSIENT: "something did not answer; the same command may succeed later",
    TERMINAL: "cannot succeed until something is changed; the message says what",
    CUT_SHORT: "asked to stop, and cut short after seconds because a server did not answer; nothing is lost",
    MISTAKE: "a mistake of K2's: please report it with the traceback",
    INTERRUPTED: "interrupted (Ctrl-C)",
}


def exit_status(error: K2Error) -> int:
    """The status that a command ends with when it raises this error."""
    if isinstance(error, VerificationFailed):
        return FINDING
    if isinstance(error, StopOverdue):
        return CUT_SHORT
    return TRANSIENT if isinstance(error, TransientError) else TERMINAL
