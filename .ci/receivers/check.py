"""Sends samples to a real server and compares what its webhooks brought."""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path

import keys
import samples
from expect import Failed, expect, ok, wait_until
from receiver import Receiver, verify

OPERATOR = "avk_receivers_0123456789"
# After so long without a delivery nothing more comes of what was sent.
QUIET = 1.5
# The server closes connections that are idle for longer.
IDLE = 30
# `standard` tries again after this.
FIRST_RETRY = 5
EVENT_SAMPLES_MAX = 2500
BACKFILL_AGE_MS = 48 * 3600 * 1000
CHECK_IN = {"patient_id": "usr_7jRtHvBk", "check_in_id": "ci_4nWxYzAb", "mood": 4, "energy": 3, "focus": 4,
            "sleep_hours": 7.5, "steps": 9241, "checked_in_at": "2026-06-30T08:15:00Z"}


class Server:
    """The binary under test on a data directory of its own."""

    def __init__(self, binary, work):
        self.process = None
        self.log = Path(work, "server.log")
        self.command = [binary, "serve", "--data-dir", str(Path(work, "data")), "--listen", "127.0.0.1:0"]

    def start(self):
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SYSTOLE_")}
        environment |= {"SYSTOLE_ADMIN_KEY": OPERATOR, "SYSTOLE_DISPATCH_ALLOW_TARGETS": "127.0.0.0/8",
                        "SYSTOLE_INGEST_POINTS_MAX": "3000"}
        self.process = subprocess.Popen(self.command, env=environment, stdout=subprocess.PIPE,
                                        stderr=self.log.open("wb"), text=True)
        line = self.process.stdout.readline()
        expect(line.startswith("listening on http://"), f"the server did not come up: {line!r}")
        self.address = line.strip().removeprefix("listening on http://")
        self.connection = http.client.HTTPConnection(self.address, timeout=60)
        self.called = time.monotonic()

    def ask(self, method, path, body=None, headers={}):
        """Status and text of the answer."""
        if time.monotonic() - self.called > IDLE:
            self.connection.close()
        self.called = time.monotonic()
        self.connection.request(method, path, body, headers)
        answer = self.connection.getresponse()
        return answer.status, answer.read().decode()

    def call(self, method, path, body=None, key=OPERATOR):
        """Status and parsed answer."""
        body = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
        headers = {"X-API-Key": key} | ({"Content-Type": "application/json"} if body else {})
        status, text = self.ask(method, path, body, headers)
        return status, json.loads(text) if text else None

    def want(self, status, method, path, body=None, key=OPERATOR):
        found, answer = self.call(method, path, body, key)
        expect(found == status, f"{method} {path} was answered {found}, not {status}: {answer}")
        return answer

    def register(self, endpoint, key=OPERATOR, **fields):
        body = {"url": endpoint.url, "dialect": endpoint.dialect, **fields}
        made = self.want(201, "POST", "/api/v1/webhooks/endpoints", body, key)
        expect(made["id"].startswith("ep_") and "secret" not in made, f"the answer to a registration: {made}")
        secret = self.want(200, "GET", f"/api/v1/webhooks/endpoints/{made['id']}/secret", key=key)
        endpoint.secret = secret["key"]
        return made["id"]

    def publish(self, event, key=OPERATOR):
        return self.want(202, "POST", "/api/v1/events", event, key)["id"]

    def counter(self, name):
        _, text = self.ask("GET", "/metrics")
        return next(float(line.split()[1]) for line in text.splitlines() if line.startswith(f"{name} "))

    def stop(self):
        self.process.terminate()
        expect(self.process.wait(40) == 0, f"SIGTERM ended the server with {self.process.returncode}")

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.kill()
            self.process.wait()


class Ledger:
    """What was sent, and which events must come of it."""

    def __init__(self):
        # By sample: (what kind of event, value), in order.
        self.samples = defaultdict(list)
        # By request: how many bodies it must cause.
        self.bodies = []
        # By (sample, place in its list): which request sent it.
        self.request_of = {}

    def send(self, server, request):
        accepted = server.want(200, "POST", request.path, request.body)
        expect(accepted == {"accepted": len(request.points)}, f"the answer to a request: {accepted}")
        changed = Counter()
        for point in request.points:
            key, value, known = samples.key(point), samples.canonical(point), self.samples[samples.key(point)]
            if known and known[-1][1] == value:
                continue
            kind = "updated" if known else "created"
            known.append((kind, value))
            self.request_of[key, len(known) - 1] = len(self.bodies)
            changed[kind, key[0], key[1], key[2]] += 1
        self.bodies.append(sum(-(-count // EVENT_SAMPLES_MAX) for count in changed.values()))
        return self.bodies[-1]


class Received:
    """Samples of one endpoint's deliveries, each event once."""

    def __init__(self, endpoint, metrics):
        self.endpoint = endpoint
        self.events = {}
        self.repeated = 0
        for delivery in endpoint.deliveries:
            if delivery.id in self.events:
                self.repeated += 1
                expect(self.events[delivery.id].body == delivery.body, f"{delivery.id} came with two bodies")
            self.events.setdefault(delivery.id, delivery)
        self.bodies = {id: json.loads(delivery.body) for id, delivery in self.events.items()}
        same = {delivery.body for delivery in self.events.values()}
        expect(len(same) == len(self.events), "one body came under two ids")
        self.metrics = metrics

    def name(self, id):
        body = self.bodies[id]
        return body.get("type") or body.get("event")

    def of_samples(self):
        """Bodies of samples: (id, name, data)."""
        for id, body in self.bodies.items():
            if "samples" in body["data"]:
                yield id, self.name(id), body["data"]

    def samples(self):
        """By sample: (ordering, kind, value), in order."""
        found = defaultdict(list)
        for id, name, data in self.of_samples():
            metric = self.metrics[data["series_type"]]
            for sample in data["samples"]:
                device = sample["source"]["device"]
                at = samples.milliseconds(sample["timestamp"])
                key = data["user_id"], metric["key"], data["provider"], device, at
                expect(sample["source"]["provider"] == data["provider"], f"{id} has two providers")
                expect(sample["type"] == data["series_type"], f"{id} has two series")
                expect(sample["unit"] == metric["unit"], f"{id} has another unit than {metric['unit']}")
                found[key].append((data["ordering"], name.rpartition(".")[2], sample["value"]))
        for states in found.values():
            states.sort()
        return found


def words(registry, dialect):
    """What a dialect calls a metric, to our key and the unit it prints."""
    ours = dialect != "standard"
    named = lambda metric: metric["key"] if ours or not metric["ow_code"] else metric["ow_code"]
    unit = lambda metric: metric["unit"] if ours or not metric["ow_code"] else metric["ow_unit"]
    return {named(metric): {"key": metric["key"], "unit": unit(metric)} for metric in registry}


def quiet(receiver):
    """Waits until nothing comes any more."""
    wait_until(lambda: time.monotonic() - receiver.last_arrival > QUIET, "the end of deliveries")


def arrived(receiver):
    """Ids of all deliveries, by endpoint."""
    return {endpoint.name: [delivery.id for delivery in endpoint.deliveries]
            for endpoint in receiver.endpoints.values()}


def check_verified(receiver):
    for endpoint in receiver.endpoints.values():
        expect(not endpoint.faults, f"{endpoint.name}: {len(endpoint.faults)} not verified: {endpoint.faults[:3]}")


def check_samples(ledger, received):
    found = received.samples()
    missing = [key for key in ledger.samples if key not in found]
    expect(not missing, f"{received.endpoint.name}: {len(missing)} samples missing, the first {missing[:2]}")
    extra = [key for key in found if key not in ledger.samples]
    expect(not extra, f"{received.endpoint.name}: {len(extra)} samples nobody sent, the first {extra[:2]}")
    for key, sent in ledger.samples.items():
        came = [(kind, value) for _, kind, value in found[key]]
        same = len(came) == len(sent) and all(
            a[0] == b[0] and abs(a[1] - b[1]) < 1e-9 for a, b in zip(came, sent))
        expect(same, f"{received.endpoint.name}: {key} was sent as {sent} and came as {came}")
    return sum(len(states) for states in found.values())


def check_ordering(ledger, received):
    """One ordering for all that a request sent, greater than that of the request before."""
    orderings = defaultdict(set)
    for key, states in received.samples().items():
        for place, (ordering, _, _) in enumerate(states):
            orderings[ledger.request_of[key, place]].add(ordering)
    expect(all(len(values) == 1 for values in orderings.values()), "a request's events have more than one ordering")
    rising = [orderings[request].pop() for request in sorted(orderings)]
    expect(all(a < b for a, b in zip(rising, rising[1:])), f"ordering does not rise: {rising}")
    return len(rising)


def check_bodies(ledger, received):
    """As many events as the requests must cause, each whole in itself."""
    of_samples = list(received.of_samples())
    expect(len(of_samples) == sum(ledger.bodies), f"{len(of_samples)} events of samples, not {sum(ledger.bodies)}")
    for id, name, data in of_samples:
        times = [samples.milliseconds(sample["timestamp"]) for sample in data["samples"]]
        expect(samples.milliseconds(data["start_time"]) == min(times), f"start_time of {id}")
        expect(samples.milliseconds(data["end_time"]) == max(times), f"end_time of {id}")
        committed = samples.milliseconds(received.bodies[id]["timestamp"])
        expect(data.get("backfill", False) == (max(times) < committed - BACKFILL_AGE_MS), f"backfill of {id}")
        if "total_chunks" not in data:
            expect(data["sample_count"] == len(times), f"sample_count of {id}")


def check_chunks(received):
    parts = [data for _, _, data in received.of_samples() if data["user_id"] == "long"]
    parts.sort(key=lambda data: data["chunk_index"])
    shape = [(part["chunk_index"], part["total_chunks"], part["sample_count"], len(part["samples"])) for part in parts]
    expect(shape == [(0, 2, 2600, 2500), (1, 2, 2600, 100)], f"chunks of 2,600 samples: {shape}")
    expect(len({part["ordering"] for part in parts}) == 1, "chunks of one event have two orderings")


def check_corrections(received):
    events = [(data["ordering"], name, id, data["samples"][0]["value"])
              for id, name, data in received.of_samples() if data["user_id"] == "corrected"]
    events.sort()
    shape = [(name, value) for _, name, _, value in events]
    wanted = [("heart_rate.created", 60), ("heart_rate.updated", 61), ("heart_rate.updated", 60)]
    expect(shape == wanted, f"corrections came as {shape}")
    expect(len({id for _, _, id, _ in events}) == 3, "corrections share an id")


def check_retry(endpoint):
    expect(len(endpoint.deliveries) == 2, f"{len(endpoint.deliveries)} attempts, not 2")
    first, again = endpoint.deliveries
    expect((first.status, again.status) == (500, 200), "the first attempt must fail and the second succeed")
    expect(first.id == again.id, f"the retry has another id: {first.id}, {again.id}")
    expect(first.body == again.body, "the retry has another body")
    stamps = [int(delivery.headers["webhook-timestamp"]) for delivery in endpoint.deliveries]
    expect(stamps[1] > stamps[0], f"the retry's webhook-timestamp is not newer: {stamps}")
    expect(abs(stamps[1] - again.at) < 5, f"the retry's webhook-timestamp is not fresh: {stamps[1]}, {again.at}")
    waited = again.at - first.at
    expect(FIRST_RETRY - 0.5 < waited < FIRST_RETRY + 10, f"the retry came after {waited:.1f} s, not {FIRST_RETRY}")
    expect(first.headers["webhook-signature"] != again.headers["webhook-signature"], "the retry is not signed anew")
    return waited


def check_published(id, endpoints):
    """The same event in every dialect, under one id."""
    bodies = {}
    for endpoint in endpoints:
        came = [delivery for delivery in endpoint.deliveries if delivery.id == id]
        expect(len(came) == 1, f"{endpoint.name}: {len(came)} deliveries of {id}")
        bodies[endpoint.dialect] = json.loads(came[0].body)
    stamp = bodies["standard"]["timestamp"]
    wanted = {
        "standard": {"type": "check_in.created", "timestamp": stamp, "data": CHECK_IN},
        "avycenna": {"event": "check_in.created", "event_id": "evt_5nXyZaBc", "timestamp": stamp, "data": CHECK_IN},
        "avon": {"event": "check_in.created", "created_at": samples.milliseconds(stamp), "object": CHECK_IN},
        "azodha": {"eventName": "check_in.created", "organizationId": "default", "organizationCode": "OC-1",
                   "attributes": {"organizationCode": "OC-1"}, "data": CHECK_IN},
    }
    for dialect, body in bodies.items():
        expect(body == wanted[dialect], f"{dialect} prints {body}")
        expect(list(body) == list(wanted[dialect]), f"{dialect} prints its members as {list(body)}")


def check_refusal(endpoints):
    """A signature holds for its bytes only: so what verified was looked at."""
    for endpoint in endpoints:
        delivery = endpoint.deliveries[-1]
        try:
            verify(endpoint.scheme, delivery.body + b" ", delivery.headers, endpoint.secret)
        except Exception:
            continue
        raise Failed(f"{endpoint.scheme}: a changed body verifies")


def check_repeated(server, receiver, ledger, requests, endpoints):
    """What was sent before causes nothing; how long that took to know."""
    before = {name: len(ids) for name, ids in arrived(receiver).items()}
    began = time.monotonic()
    for request in requests:
        expect(ledger.send(server, request) == 0, "the check itself: a repeated request changes something")
    # Events come in the order of commits, so nothing is left before this one.
    last = publish(server)
    wait_until(lambda: all(any(d.id == last for d in endpoint.deliveries) for endpoint in endpoints), "the last event")
    quiet(receiver)
    for endpoint in endpoints:
        more = len(endpoint.deliveries) - before[endpoint.name]
        expect(more == 1, f"{endpoint.name}: {more - 1} deliveries of samples that did not change")
    return time.monotonic() - began


def publish(server, key=OPERATOR, **fields):
    return server.publish({"type": "check_in.created", "user_id": "usr_7jRtHvBk", "data": CHECK_IN, **fields}, key)


def run(server, receiver, capture):
    standard = receiver.endpoint("standard", "standard")
    avycenna = receiver.endpoint("avycenna", "avycenna")
    avon = receiver.endpoint("avon", "avon")
    azodha = receiver.endpoint("azodha", "azodha")
    retried = receiver.endpoint("retried", "standard", flaky=True)
    other = receiver.endpoint("other", "standard")
    everything = [standard, avycenna]
    published = [*everything, avon, azodha]

    made = server.want(201, "POST", "/api/v1/api-keys?org=other", {"scopes": ["ingest", "webhooks"]})
    server.register(standard)
    server.register(avycenna, secret="avy_test_secret_0001")
    server.register(avon, filter_types=["check_in.created"], secret="avon_test_secret_0001")
    azodha_id = server.register(azodha, filter_types=["check_in.created"],
                                attributes={"organizationCode": "OC-1"}, send_organization_code=True)
    server.register(retried, user_id="retried")
    other_id = server.register(other, key=made["key"])
    expect(server.call("GET", f"/api/v1/webhooks/endpoints/{other_id}")[0] == 404, "an endpoint is seen elsewhere")
    ok("6 endpoints registered, 4 dialects, 2 organisations")

    ledger = Ledger()
    ledger.send(server, samples.one("retried", 71, samples.recent(30), "Müller’s Uhr 手表 ⌚"))
    recorded, which = samples.recorded()
    at = samples.recent(60)
    corrections = [samples.one("corrected", value, at) for value in (60, 61, 60)]
    requests = [samples.mixed(), samples.long_series(), *corrections, *recorded]
    began = time.monotonic()
    for request in requests:
        ledger.send(server, request)
    points = sum(len(request.points) for request in requests)
    ok(f"{points} points sent in {len(requests)} requests, {time.monotonic() - began:.1f} s ({which})")
    wanted = sum(ledger.bodies)
    came = lambda: all(len(endpoint.deliveries) + len(endpoint.faults) >= wanted for endpoint in everything)
    try:
        wait_until(came, "deliveries")
    except Failed as fault:
        counts = {endpoint.name: len(endpoint.deliveries) for endpoint in everything}
        raise Failed(f"{fault}: {wanted} events are due at each endpoint, and came: {counts}") from None
    check_verified(receiver)
    ok(f"{wanted} events at each endpoint, {time.monotonic() - began:.1f} s after the first was sent")

    id = publish(server, event_id="evt_5nXyZaBc")
    wait_until(lambda: all(any(d.id == id for d in endpoint.deliveries) for endpoint in published), "check_in.created")
    check_published(id, published)
    ok("check_in.created comes in the four dialects under one id")

    registry = server.want(200, "GET", "/api/v1/metrics")["data"]
    received = [Received(endpoint, words(registry, endpoint.dialect)) for endpoint in everything]
    for of in received:
        count = check_samples(ledger, of)
        check_bodies(ledger, of)
        check_chunks(of)
        check_corrections(of)
        requests_seen = check_ordering(ledger, of)
        ok(f"{of.endpoint.name}: the {count} samples received are those sent, each once "
           f"({len(of.events)} events, {of.repeated} of them delivered again)")
        ok(f"{of.endpoint.name}: ordering rises over {requests_seen} requests, one value each")
        ok(f"{of.endpoint.name}: 2,600 samples are chunks 0 and 1 of 2; 60, 61, 60 are one created, two updated")
    expect(set(received[0].events) == set(received[1].events), "an event has two ids")
    inside = {id: body["event_id"] for id, body in received[1].bodies.items() if "samples" in body["data"]}
    expect(all(id == event_id for id, event_id in inside.items()), "event_id is not webhook-id")
    ok("an event has one id at both endpoints, and avycenna's body prints it")

    unchanged = [*requests[:2], corrections[-1], *recorded]
    seconds = check_repeated(server, receiver, ledger, unchanged, everything)
    ok(f"{len(unchanged)} requests sent again cause no delivery, {seconds:.1f} s")
    server.want(200, "POST", "/api/v1/admin/flush")
    unchanged = [*requests[:2], corrections[-1], *recorded[::10]]
    seconds = check_repeated(server, receiver, ledger, unchanged, everything)
    ok(f"nor do {len(unchanged)} of them once all is in Parquet, {seconds:.1f} s")

    wait_until(lambda: len(retried.deliveries) >= 2, "the retry")
    waited = check_retry(retried)
    ok(f"a retry after {waited:.1f} s has the same id and bytes, a fresh timestamp and signature")

    expect(not other.deliveries, f"another organisation got {len(other.deliveries)} deliveries")
    theirs = publish(server, made["key"])
    wait_until(lambda: other.deliveries, "the other organisation's event")
    quiet(receiver)
    ids = arrived(receiver)
    expect(ids["other"] == [theirs], f"the other organisation got {ids['other']}, not its own event alone")
    expect(all(theirs not in ids[endpoint.name] for endpoint in published), "its event came to this one")
    ok("another organisation's endpoint gets its own event and nothing of this one")

    signed_anew = keys.check_rotation(server, receiver) + keys.check_v1a(server, receiver)
    quiet(receiver)

    before = {name: len(ids) for name, ids in arrived(receiver).items()}
    sent = server.want(202, "POST", f"/api/v1/webhooks/endpoints/{azodha_id}/test")["id"]
    wait_until(lambda: azodha.deliveries[-1].id == sent, "the test event")
    quiet(receiver)
    more = {name: len(ids) - before[name] for name, ids in arrived(receiver).items()}
    expect(more == {name: int(name == "azodha") for name in more}, f"deliveries of a test event: {more}")
    ok("a test event comes to its endpoint alone")

    delivered = sum(1 for endpoint in receiver.endpoints.values() for d in endpoint.deliveries if d.status == 200)
    counted = server.counter("systole_webhook_delivered_total")
    expect(counted == delivered, f"/metrics counts {counted:.0f} deliveries, {delivered} came")
    failures = server.counter("systole_webhook_failed_total")
    expect(failures == 1, f"/metrics counts {failures:.0f} failed attempts, not 1")
    check_refusal([*published, *signed_anew])
    check_verified(receiver)
    total = sum(len(endpoint.deliveries) for endpoint in receiver.endpoints.values())
    ok(f"every signature of {total} deliveries verified: standardwebhooks, svix, the documented snippets; "
       f"{receiver.connections} connections")
    if capture:
        keep(receiver, capture)


def keep(receiver, path):
    """Deliveries as a file for other verifiers, one a line."""
    with open(path, "w", encoding="utf-8") as file:
        for endpoint in receiver.endpoints.values():
            for delivery in endpoint.deliveries:
                line = {"dialect": endpoint.scheme, "secret": delivery.secret, "headers": delivery.headers,
                        "body": delivery.body.decode()}
                file.write(json.dumps(line) + "\n")


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("binary")
    arguments.add_argument("--work", required=True)
    arguments.add_argument("--capture")
    chosen = arguments.parse_args()
    # So that the server is ended below.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    began = time.monotonic()
    server = Server(chosen.binary, chosen.work)
    try:
        server.start()
        run(server, Receiver(), chosen.capture)
        server.stop()
        ok(f"the server stops with exit 0; {time.monotonic() - began:.1f} s in all")
    except Failed as fault:
        print(f"FAILED: {fault}")
        print("the end of the server's log:")
        print("\n".join(server.log.read_text(errors="replace").splitlines()[-20:]))
        return 1
    finally:
        server.kill()
    return 0


if __name__ == "__main__":
    sys.exit(main())
