"""A receiver of webhooks, as its users write them: HTTP/1.1 with keep-alive, each
delivery verified before it is answered.

Each endpoint has a path of its own. What was delivered is kept whole, in the order
of arrival; a delivery that does not verify is answered 401 and kept as a fault.
"""

import asyncio
import hashlib
import hmac
import threading
import time
from dataclasses import dataclass, field

import standardwebhooks
import svix.webhooks


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


def verify(dialect: str, body: bytes, headers: dict, secret: str) -> None:
    """Raises unless the delivery is genuine."""
    if dialect == "standard":
        verify_standard(body, headers, secret)
        return
    header, check = {
        "avycenna": ("x-avycenna-signature", verify_webhook),
        "avon": ("avon-signature", verify_hex),
        "azodha": ("x-azodha-signature", verify_hex),
    }[dialect]
    if not check(body, headers[header], secret):
        raise ValueError(f"{header} does not match")


@dataclass
class Delivery:
    """One request."""

    at: float
    status: int
    headers: dict
    body: bytes

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
    secret: str = ""
    deliveries: list = field(default_factory=list)
    faults: list = field(default_factory=list)

    def take(self, headers: dict, body: bytes) -> int:
        try:
            verify(self.dialect, body, headers, self.secret)
        except Exception as fault:
            self.faults.append(f"{headers.get('webhook-id')}: {type(fault).__name__}: {fault}")
            return 401
        seen = any(known.id == headers["webhook-id"] for known in self.deliveries) if self.flaky else True
        status = 200 if seen else 500
        self.deliveries.append(Delivery(time.time(), status, headers, body))
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
