"""Several commands in one process, which starts once: `python -m lipcert.cli.batch`.

Each line of standard input is a JSON list: a file, to which what the command prints is added, and its arguments. For
each, a line with the exit status is written to standard output.
"""

from __future__ import annotations

import json
import os
import sys

from lipcert.cli import main


def serve() -> None:
    """Runs commands until standard input ends."""
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        log, *arguments = json.loads(line)
        with open(log, "ab", buffering=0) as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        status = main.run(arguments[0], arguments[1:])
        sys.stdout.flush()
        sys.stderr.flush()
        answers.write(f"{status}\n")
        answers.flush()


if __name__ == "__main__":
    serve()
