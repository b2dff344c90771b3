"""Keys that change, and keys of ed25519: both are skipped where a server has them not."""

import base64
import secrets

import receiver as receivers
from expect import expect, ok, skipped, wait_until
from receiver import HEADERS, verify, verify_next

ENDPOINTS = "/api/v1/webhooks/endpoints"
EVENT = {"type": "check_in.created", "data": {"patient_id": "rotated", "mood": 4}}
GRACE_SECONDS = 3600
# A server without the route, without the field, and one that says so.
ABSENT = (404, 405, 422)
DIALECTS = ("standard", "avycenna", "avon", "azodha")


def refuses(check, *arguments):
    try:
        check(*arguments)
    except Exception:
        return True
    return False


def deliver(server, endpoint, user):
    """Publishes an event about the endpoint's user; the delivery of it."""
    id = server.publish({**EVENT, "user_id": user})
    came = lambda: next((delivery for delivery in endpoint.deliveries if delivery.id == id), None)
    return wait_until(lambda: came() or endpoint.faults, f"an event at {endpoint.name}") and came()


def rotate(server, id, **fields):
    status, answer = server.call("POST", f"{ENDPOINTS}/{id}/secret/rotate", fields)
    if status in ABSENT:
        return status, None
    expect(status == 200, f"a rotation was answered {status}: {answer}")
    secret = server.want(200, "GET", f"{ENDPOINTS}/{id}/secret")
    expect(secret["key"] == answer["key"], "the secret after a rotation is not the one that it answered")
    return status, answer["key"]


def check_rotation(server, receiver):
    """During the grace both keys verify, after it the new one alone. The endpoints."""
    checked = []
    for dialect in DIALECTS:
        endpoint = receiver.endpoint(f"rotated-{dialect}", dialect)
        user = f"rotated-{dialect}"
        id = server.register(endpoint, user_id=user, filter_types=[EVENT["type"]])
        old = endpoint.secret
        status, new = rotate(server, id, grace_seconds=GRACE_SECONDS)
        if new is None:
            skipped(f"rotation of secrets: the server answers {status}")
            server.want(204, "DELETE", f"{ENDPOINTS}/{id}")
            return checked
        expect(new != old, f"{dialect}: a rotation keeps the key")
        # The receiver still has the old key: what it refuses is a fault.
        delivery = deliver(server, endpoint, user)
        expect(not endpoint.faults, f"{dialect}: the old key does not verify in its grace: {endpoint.faults}")
        with_next = delivery.body, delivery.headers, new
        expect(not refuses(verify_next, dialect, *with_next), f"{dialect}: the new key does not verify in the grace")
        if dialect != "standard":
            expect(refuses(verify, dialect, *with_next), f"{dialect}: the new key signs the old header")

        own = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
        _, last = rotate(server, id, grace_seconds=0, key=own)
        expect(last == own, f"{dialect}: a rotation to a key that was brought made another")
        endpoint.secret = own
        delivery = deliver(server, endpoint, user)
        expect(not endpoint.faults, f"{dialect}: the new key does not verify without a grace: {endpoint.faults}")
        for gone in (old, new):
            expect(refuses(verify, dialect, delivery.body, delivery.headers, gone), f"{dialect}: an old key verifies")
        if dialect != "standard":
            expect(f"{HEADERS[dialect]}-next" not in delivery.headers, f"{dialect}: a next signature without a grace")
        checked.append(endpoint)
    ok(f"rotated keys: in the grace the old and the new one verify, after it the new one alone ({', '.join(DIALECTS)})")
    return checked


def check_v1a(server, receiver):
    """Deliveries of an endpoint that signs with ed25519. The endpoint."""
    endpoint = receiver.endpoint("ed25519", "standard")
    wish = {"url": endpoint.url, "signature": "v1a", "user_id": "ed25519", "filter_types": [EVENT["type"]]}
    status, made = server.call("POST", ENDPOINTS, wish)
    if status in ABSENT:
        skipped(f"v1a: the server answers {status}")
        return []
    expect(status == 201, f"an endpoint with v1a was answered {status}: {made}")
    shown = server.want(200, "GET", f"{ENDPOINTS}/{made['id']}")
    public = [value for value in shown.values() if isinstance(value, str) and value.startswith("whpk_")]
    expect(len(public) == 1, f"an endpoint with v1a shows {len(public)} public keys")
    secret = server.want(200, "GET", f"{ENDPOINTS}/{made['id']}/secret")["key"]
    expect(secret.startswith("whsk_"), "the secret of an endpoint with v1a is no whsk_")
    expect("whsk_" not in str(shown), "an endpoint shows its private key")
    endpoint.signature, endpoint.secret = "v1a", public[0]
    deliver(server, endpoint, "ed25519")
    expect(not endpoint.faults, f"v1a does not verify: {endpoint.faults}")
    by = "cryptography and authweave-webhooks" if receivers.authweave_webhooks else \
        "cryptography (authweave-webhooks needs Python 3.12)"
    ok(f"v1a verifies with {by}")
    return [endpoint]
