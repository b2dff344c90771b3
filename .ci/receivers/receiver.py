"""A receiver of webhooks, as its users write them: HTTP/1.1 with keep-alive, each
delivery verified before it is answered.

Each endpoint has a path of its own. What was delivered is kept whole, in the order
of arrival; a delivery that does not verify is answered 401 and kept as a fault.
"""

import asyncio
import base64
import hashlib
import hmac
import threading
import time
from dataclasses import dataclass, field

import standardwebhooks
import svix.webhooks
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

try:
    import authweave_core
    import authweave_webhooks
except ImportError:  # needs Python 3.12
    authweave_webhooks = None

# Headers of the dialects that sign the body alone.
HEADERS = {"avycenna": "x-avycenna-signature", "avon": "avon-signature", "azodha": "x-azodha-signature"}


def verify_webhook(body: bytes, signature: str, secret: str) -> bool:
    """AVYCENNA's documented snippet, as it stands."""
    expected = hmac.new(
        secret.encode(),
        body,
        hashlib.sha256
    ).hexdigest()
    return hmac.compare_digest(f"sha256={expected}", signature)


def verify_hex(body: bytes, signature: str, secret: str) -> bool:
    """Avon's documented comparison; Azodha's endpoints sign the same way."""
    expected = hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, signature)


def verify_standard(body: bytes, headers: dict, secret: str) -> None:
    """Each package gets only the headers it is documented to read."""
    named = lambda prefix: {name: value for name, value in headers.items() if name.startswith(prefix)}
    standardwebhooks.Webhook(secret).verify(body, named("webhook-"))
    svix.webhooks.Webhook(secret).verify(body, named("svix-"))


def verify_v1a(body: bytes, headers: dict, public_key: str) -> None:
    """ed25519 as Standard Webhooks defines it; `public_key` begins with `whpk_`.

    The packages of Standard Webhooks and Svix do not know it. authweave-webhooks does,
    from Python 3.12 on.
    """
    raw = base64.b64decode(public_key.removeprefix("whpk_"))
    text = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    version, _, signature = headers["webhook-signature"].partition(",")
    if version != "v1a":
        raise ValueError(f"webhook-signature is a {version}, not a v1a")
    Ed25519PublicKey.from_public_bytes(raw).verify(base64.b64decode(signature, validate=True), text)
    if authweave_webhooks:
        document = authweave_webhooks.PublicKeyDocument(
            version="1", environment="check", owner="check", endpoint="check", not_before=0, retire_after=None,
            keys=(authweave_webhooks.Ed25519PublicKey(raw),))
        verifier = authweave_webhooks.StandardWebhooksVerifier(
            authweave_webhooks.StaticPublicKeyResolver(document),
            replay_store=authweave_core.InMemoryReplayStore(capacity=8, time_source=time.time),
            expected_environment="check", expected_owner="check", expected_endpoint="check",
            time_source=lambda: int(time.time()))
        run_alone(verifier.verify(headers=headers, body=body))


def run_alone(coroutine) -> None:
    """Runs a coroutine that waits for nothing, also inside a running loop."""
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("the coroutine waits for something")


def verify(scheme: str, body: bytes, headers: dict, secret: str) -> None:
    """Raises unless the delivery is genuine. A scheme is a dialect, or `v1a`."""
    if scheme == "standard":
        verify_standard(body, headers, secret)
    elif scheme == "v1a":
        verify_v1a(body, headers, secret)
    else:
        verify_header(scheme, HEADERS[scheme], body, headers, secret)


def verify_header(dialect: str, header: str, body: bytes, headers: dict, secret: str) -> None:
    """By the documented snippet of a dialect that signs the body alone."""
    check = verify_webhook if dialect == "avycenna" else verify_hex
    if not check(body, headers[header], secret):
        raise ValueError(f"{header} does not match")


def verify_next(dialect: str, body: bytes, headers: dict, secret: str) -> None:
    """By the key that comes next, while an old one still has its grace."""
    if dialect == "standard":
        verify_standard(body, headers, secret)
    else:
        verify_header(dialect, f"{HEADERS[dialect]}-next", body, headers, secret)


@dataclass
class Delivery:
    """One request."""

    at: float
    status: int
    headers: dict
    body: bytes
    # What verified it.
    secret: str

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]


@dataclass
class Endpoint:
    """One path of the receiver."""

    name: str
    dialect: str
    url: str
    # The first attempt of each event is answered 500.
    flaky: bool = False
    # What verifies it: the secret, or of `v1a` the public key.
    secret: str = ""
    signature: str = "v1"
    deliveries: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    @property
    def scheme(self) -> str:
        return "v1a" if self.signature == "v1a" else self.dialect

    def take(self, headers: dict, body: bytes) -> int:
        try:
            verify(self.scheme, body, headers, self.secret)
        except Exception as fault:
            self.faults.append(f"{headers.get('webhook-id')}: {type(fault).__name__}: {fault}")
            return 401
        seen = any(known.id == headers["webhook-id"] for known in self.deliveries) if self.flaky else True
        status = 200 if seen else 500
        self.deliveries.append(Delivery(time.time(), status, headers, body, self.secret))
        return status


class Receiver:
    """Listens on a free port of 127.0.0.1, in a thread of its own."""

    def __init__(self):
        self.endpoints = {}
        self.last_arrival = time.monotonic()
        self.connections = 0
        self._loop = asyncio.new_event_loop()
        started = threading.Event()
        self._thread = threading.Thread(target=self._run, args=[started], daemon=True)
        self._thread.start()
        started.wait()

    def endpoint(self, name: str, dialect: str, flaky: bool = False) -> Endpoint:
        made = Endpoint(name, dialect, f"http://127.0.0.1:{self.port}/{name}", flaky)
        self.endpoints[f"/{name}"] = made
        return made

    def _run(self, started):
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=1 << 20))
        self.port = server.sockets[0].getsockname()[1]
        started.set()
        self._loop.run_forever()

    async def _serve(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                request, *lines = head.decode("latin-1").split("\r\n")[:-2]
                headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
                body = await reader.readexactly(int(headers["content-length"]))
                method, path, _ = request.split(" ")
                endpoint = self.endpoints.get(path)
                status = endpoint.take(headers, body) if endpoint and method == "POST" else 404
                self.last_arrival = time.monotonic()
                writer.write(f"HTTP/1.1 {status} -\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
