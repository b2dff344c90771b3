#!/usr/bin/env python3
"""A stand-in for the server that keeps its word under kills, for the ledger's tests.

`server.py serve --listen A --data-dir D`: what it takes in is a line of one log, synced
before it is acknowledged; what the log holds and no line says is delivered is sent
again after a start, until it is answered 2xx. `server.py check` ends with 0.
`SYSTOLE_FLAW` makes it break a promise: lost, doubled, changed, value, check.
"""

import base64
import hashlib
import hmac
import http.client
import http.server
import json
import os
import queue
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

FLAW = os.environ.get("SYSTOLE_FLAW", "none")


class Store:
    """The log and what it says; one lock for all."""

    def __init__(self, folder):
        folder.mkdir(parents=True, exist_ok=True)
        self.lock = threading.Lock()
        self.endpoint, self.by_event_id, self.samples, self.count = None, {}, {}, 0
        self.waiting = queue.Queue()
        path, open_events = folder / "log", {}
        for line in path.read_text().splitlines(keepends=True) if path.exists() else []:
            if not line.endswith("\n"):
                break
            entry = json.loads(line)
            for event in self.apply(entry):
                open_events[event["id"]] = event
            if "delivered" in entry:
                open_events.pop(entry["delivered"], None)
        # A torn line is cut off, so that the next one begins a line of its own.
        text = path.read_text() if path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        path.write_text(whole)
        self.file = path.open("a")
        for event in open_events.values():
            if FLAW != "lost":
                self.waiting.put(event)

    def apply(self, entry):
        if "endpoint" in entry:
            self.endpoint = entry["endpoint"]
        for event in entry.get("events", []):
            self.count += 1
            if event.get("event_id"):
                self.by_event_id[event["event_id"]] = event["id"]
            self.samples.update({tuple(key): value for key, value in event.get("keys", [])})
        return entry.get("events", [])

    def write(self, entry, sync=True):
        self.file.write(json.dumps(entry) + "\n")
        self.file.flush()
        if sync:
            os.fsync(self.file.fileno())
        for event in self.apply(entry):
            if FLAW != "lost" or self.count % 10:
                self.waiting.put(event)

    def publish(self, asked):
        with self.lock:
            known = self.by_event_id.get(asked["event_id"])
            if known:
                return known
            id = f"evt_{self.count:026}"
            body = json.dumps({"type": asked["type"], "timestamp": "t", "data": asked["data"]})
            event = {"id": id, "event_id": asked["event_id"], "body": body}
            self.write({"events": [event | {"id": id + "-0"}, event] if FLAW == "doubled" else [event]})
            return id

    def ingest(self, points):
        with self.lock:
            new = [point for point in points
                   if self.samples.get((point["user_id"], point["recorded_at"])) != point["value"]]
            if not new:
                return
            id = f"evt_{self.count:026}"
            wrong = 1 if FLAW == "value" else 0
            body = json.dumps({"type": "heart_rate.created", "timestamp": "t", "data": {
                "user_id": new[0]["user_id"],
                "samples": [{"timestamp": point["recorded_at"], "value": point["value"] + wrong} for point in new]}})
            keys = [[[point["user_id"], point["recorded_at"]], point["value"]] for point in new]
            self.write({"events": [{"id": id, "body": body, "keys": keys}]})

    def deliver(self):
        connection = None
        while True:
            event = self.waiting.get()
            url, key = urlsplit(self.endpoint["url"]), base64.b64decode(self.endpoint["secret"][6:])
            body = event["body"].encode()
            if FLAW == "changed" and event.get("tried"):
                body += b" "
            stamp = str(int(time.time()))
            signed = f"{event['id']}.{stamp}.".encode() + body
            signature = base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode()
            headers = {"webhook-id": event["id"], "webhook-timestamp": stamp, "webhook-signature": f"v1,{signature}"}
            try:
                connection = connection or http.client.HTTPConnection(url.netloc)
                connection.request("POST", url.path, body, headers)
                answer = connection.getresponse()
                answer.read()
                taken = answer.status == 200
            except OSError:
                connection, taken = None, False
            if taken:
                with self.lock:
                    self.write({"delivered": event["id"]}, sync=False)
            else:
                self.waiting.put(event | {"tried": True})


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path == "/api/v1/events":
            self.answer(202, {"id": store.publish(asked)})
        elif self.path == "/api/v1/wearables/bulk-ingest":
            store.ingest(asked["data_points"])
            self.answer(200, {"accepted": len(asked["data_points"])})
        else:
            with store.lock:
                store.write({"endpoint": asked})
            self.answer(201, {"id": "ep_1"})

    def answer(self, status, body):
        text = json.dumps(body).encode()
        head = f"HTTP/1.1 {status} -\r\ncontent-length: {len(text)}\r\n\r\n".encode()
        self.wfile.write(head + text)

    def log_message(self, *_):
        pass


folder = Path(sys.argv[sys.argv.index("--data-dir") + 1])
if sys.argv[1] == "check":
    if FLAW == "check":
        sys.exit(print("a fault") or 1)
    sys.exit(0)
store = Store(folder)
threading.Thread(target=store.deliver, daemon=True).start()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
print(f"listening on http://127.0.0.1:{server.server_port}", flush=True)
server.serve_forever()
