"""Pushes samples, flushes, and compares what DuckDB and pyarrow read from the
open files with what was sent. Usage: readers.py URL KEY DATA_DIR"""

import json
import sys
import urllib.request
from datetime import datetime, timedelta, timezone

import duckdb
import pyarrow.dataset as dataset

url, key, data = sys.argv[1:]
samples = f"{data}/samples"


def call(path, body=None, method=None):
    headers = {"X-API-Key": key, "Content-Type": "application/json"}
    payload = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, payload, headers, method=method)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)


start = datetime(2026, 5, 30, tzinfo=timezone.utc)
sent = {}
for user in ("u_1", "u_2", "u_3"):
    for metric, unit in (("heart_rate", "bpm"), ("steps", "steps")):
        for batch in range(4):
            points = []
            for index in range(500):
                time = start + timedelta(minutes=batch * 500 + index)
                value = 50 + (index * 7 + len(user) + batch) % 90
                points.append(
                    {
                        "user_id": user,
                        "metric": metric,
                        "value": value,
                        "unit": unit,
                        "recorded_at": time.isoformat().replace("+00:00", "Z"),
                        "source": "garmin",
                    }
                )
                sent[(user, metric, time)] = value
            assert call("/api/v1/wearables/bulk-ingest", {"data_points": points})["accepted"] == 500
# A part is sent again with other values, in a flush of its own: files of two
# generations, of which compaction leaves one.
assert call("/api/v1/admin/flush", method="POST")["rows"] == len(sent)
again = [(user, metric, time) for user, metric, time in sent if time < start + timedelta(minutes=250)]
for first in range(0, len(again), 500):
    points = []
    for user, metric, time in again[first : first + 500]:
        sent[(user, metric, time)] += 1
        points.append(
            {
                "user_id": user,
                "metric": metric,
                "value": sent[(user, metric, time)],
                "unit": "bpm" if metric == "heart_rate" else "steps",
                "recorded_at": time.isoformat().replace("+00:00", "Z"),
                "source": "garmin",
            }
        )
    assert call("/api/v1/wearables/bulk-ingest", {"data_points": points})["accepted"] == len(points)
compacted = call("/api/v1/admin/compact", method="POST")
assert compacted["dropped"] == len(again), compacted

rows = duckdb.sql(
    f"select user_id, metric, count(*), sum(value), min(recorded_at), max(recorded_at) "
    f"from read_parquet('{samples}/**/*.parquet', hive_partitioning = true) "
    f"where org = 'default' group by 1, 2 order by 1, 2"
).fetchall()
for user, metric, count, total, first, last in rows:
    values = [value for (owner, name, _), value in sent.items() if (owner, name) == (user, metric)]
    assert (count, total) == (len(values), sum(values)), (user, metric, count, total)
    answer = call(f"/api/v1/wearables/metric/{metric}?user_id={user}&start=2026-05-01T00:00:00Z&end=2026-07-01T00:00:00Z")
    api = [point["value"] for point in answer["data_points"]]
    assert (len(api), sum(api)) == (count, total)
assert len(rows) == 6
table = dataset.dataset(samples, format="parquet", partitioning="hive").to_table()
assert table.num_rows == len(sent)
assert sum(table["value"].to_pylist()) == sum(sent.values())
print(f"duckdb and pyarrow read {table.num_rows} rows as the API does: {table.schema.names}")
