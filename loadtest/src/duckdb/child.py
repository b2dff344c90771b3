"""Answers SQL over Parquet files by DuckDB, a line of JSON a question.

First line in: {"glob", "org", "threads"}; first line out: {"ready": version}, or
{"missing": text} where the package is not installed. Then {"sql"} in and
{"seconds", "rows"} or {"error"} out, until stdin ends.
"""

import json
import sys
import time


def say(answer):
    print(json.dumps(answer, default=str), flush=True)


def connect(settings):
    import duckdb

    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
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


def main():
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
            say({"seconds": time.perf_counter() - begin, "rows": rows})
        except Exception as error:
            say({"error": str(error)})


main()
