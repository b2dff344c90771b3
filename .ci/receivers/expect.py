"""What is wanted, waited for and said."""

import time

# Longest wait for anything; the check itself takes well under a minute.
PATIENCE = 90


class Failed(Exception):
    """What is not as it should be."""


def ok(text):
    print(f"ok: {text}", flush=True)


def skipped(text):
    print(f"skipped: {text}", flush=True)


def expect(holds, text):
    if not holds:
        raise Failed(text)


def wait_until(holds, what):
    """`holds` gives what is waited for, or something false."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if found := holds():
            return found
        time.sleep(0.02)
    raise Failed(f"waited {PATIENCE} s in vain for {what}")
