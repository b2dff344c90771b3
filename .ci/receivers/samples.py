"""What is sent: requests of the bulk shape, and the samples they hold."""

import json
import math
import os
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

# The server's default limit; one request of the check is longer, by a setting.
POINTS_MAX = 500
LONG_SERIES = 2600
BULK = "/api/v1/wearables/bulk-ingest"


@dataclass
class Request:
    """One request and its data points, each with its user."""

    path: str
    body: bytes
    points: list


def milliseconds(text: str) -> int:
    """A time as printed or sent, as milliseconds since 1970."""
    moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
    return round(moment.timestamp() * 1000)


def key(point: dict) -> tuple:
    """What a sample is identified by, inside an organisation."""
    device = point.get("source_device_id")
    return point["user_id"], point["metric"], point["source"], device, milliseconds(point["recorded_at"])


def request(points: list) -> Request:
    return Request(BULK, json.dumps({"data_points": points}).encode(), points)


def chunks(points: list) -> list:
    return [request(points[at : at + POINTS_MAX]) for at in range(0, len(points), POINTS_MAX)]


def recorded() -> tuple:
    """Requests with real samples if they are there, else with made ones; and which."""
    here = Path(__file__).resolve().parents[3] / "shared" / "data"
    folder = Path(os.environ.get("SYSTOLE_ACCEPTANCE_DATA") or here)
    if not (folder / "points.ndjson").exists():
        if os.environ.get("SYSTOLE_ACCEPTANCE_REQUIRED") == "1":
            raise SystemExit(f"FAILED: no real samples in {folder}, but SYSTOLE_ACCEPTANCE_REQUIRED is 1")
        return chunks(made()), "made samples: the real ones are not there"
    expected = json.loads((folder / "expected.json").read_bytes())
    requests = []
    for name, of in sorted(expected["bulk"].items()):
        body = (folder / "bulk" / name).read_bytes()
        points = [{**point, "user_id": of["user_id"]} for point in json.loads(body)["data_points"]]
        requests.append(Request(f"{BULK}?user_id={of['user_id']}", body, points))
    lines = (folder / "points.ndjson").read_text().splitlines()
    return requests + chunks([json.loads(line) for line in lines]), "real samples"


def made() -> list:
    """Two weeks of 2016, hourly, of eleven users, and a heart rate every five seconds."""
    start = datetime(2016, 4, 1, tzinfo=timezone.utc)

    def point(user, metric, unit, value, after):
        at = (start + after).isoformat().replace("+00:00", "Z")
        return {"user_id": f"made-{user}", "metric": metric, "value": value, "unit": unit,
                "recorded_at": at, "source": "fitbit"}

    heart = [point(0, "heart_rate", "bpm", 60 + round(20 * math.sin(n / 40)), timedelta(seconds=5 * n))
             for n in range(8000)]
    hourly = [point(user, metric, unit, (17 * hour + 31 * user) % 900 + 42, timedelta(hours=hour))
              for hour in range(14 * 24) for user in range(11)
              for metric, unit in (("steps", "steps"), ("calories", "kcal"))]
    return heart + hourly


def recent(seconds_ago: int) -> str:
    """A time of today, with an offset."""
    zone = timezone(timedelta(hours=2))
    return (datetime.now(zone).replace(microsecond=0) - timedelta(seconds=seconds_ago)).isoformat()


def mixed() -> Request:
    """Several users, metrics, sources and devices in one request, out of order."""
    points = []
    for n in range(6):
        for user in ("mixed-a", "mixed-b", "mixed:c@x.y"):
            for source, device in (("garmin", "garmin-1"), ("garmin", "Müller’s Uhr 手表 ⌚"), ("oura", None)):
                for metric, unit, value in (("heart_rate", "bpm", 60 + n), ("spo2", "%", 95.5),
                                            ("hrv", "ms", 48.25 + n), ("steps", "steps", 10 * n),
                                            ("resting_heart_rate", "bpm", 51), ("body_temperature", "°F", 98.6),
                                            ("sleep_duration", "hours", 7.5)):
                    point = {"user_id": user, "metric": metric, "value": value, "unit": unit,
                             "recorded_at": recent(7000 - 600 * ((5 * n) % 6)), "source": source}
                    points.append({**point, "source_device_id": device} if device else point)
    return request(points)


def long_series() -> Request:
    """One series of more samples than one body holds."""
    return request([{"user_id": "long", "metric": "heart_rate", "value": 50 + n % 70, "unit": "bpm",
                     "recorded_at": recent(LONG_SERIES - n), "source": "garmin", "source_device_id": "garmin-1"}
                    for n in range(LONG_SERIES)])


def one(user: str, value: float, recorded_at: str, device: str = "garmin-1") -> Request:
    return request([{"user_id": user, "metric": "heart_rate", "value": value, "unit": "bpm",
                     "recorded_at": recorded_at, "source": "garmin", "source_device_id": device}])


def canonical(point: dict) -> float:
    """The value in the metric's own unit."""
    value = float(point["value"])
    return (value - 32) / 1.8 if point["unit"] == "°F" else value
