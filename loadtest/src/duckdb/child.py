"""Answers SQL over Parquet files by DuckDB, a line of JSON a question.

First line in: {"glob", "org", "threads"}; first line out: {"ready": version}, or
{"missing": text} where the package is not installed. Then {"sql"} in and
{"seconds", "rows"} or {"error"} out, until stdin ends.

Answers have a descriptor of their own. Run by `python -c` there is no `__main__.__file__`,
which DuckDB takes for a person at a terminal: after two seconds of a query it draws
a progress bar on descriptor 1. That is switched off, and whatever else writes
there writes to stderr.
"""

import json
import math
import os
import sys
import time


def own_descriptor():
    """What was stdout, for answers alone; stdout is stderr from here on."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def plain(value):
    """A value as JSON has it: numbers that it has not are text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def connect(settings):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute("SET enable_progress_bar = false")
    if settings.get("threads"):
        connection.execute(f"SET threads = {int(settings['threads'])}")
    try:
        connection.execute("SET parquet_metadata_cache = true")
    except duckdb.Error:
        pass  # an older version, which calls it otherwise
    glob, org = (settings[name].replace("'", "''") for name in ("glob", "org"))
    connection.execute(
        f"CREATE VIEW samples AS SELECT * FROM "
        f"read_parquet('{glob}', hive_partitioning = true) WHERE org = '{org}'"
    )
    return connection, duckdb.__version__


def main(answers):
    def say(answer):
        print(json.dumps(answer, default=str, allow_nan=False), file=answers, flush=True)

    settings = json.loads(sys.stdin.readline())
    try:
        connection, version = connect(settings)
    except ImportError as error:
        say({"missing": str(error)})
        return
    except Exception as error:
        say({"error": str(error)})
        return
    say({"ready": version})
    for line in sys.stdin:
        try:
            begin = time.perf_counter()
            rows = connection.execute(json.loads(line)["sql"]).fetchall()
            seconds = time.perf_counter() - begin
            say({"seconds": seconds, "rows": [[plain(value) for value in row] for row in rows]})
        except Exception as error:
            say({"error": str(error)})


main(own_descriptor())
