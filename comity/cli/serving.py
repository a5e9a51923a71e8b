"""One server in this process: its doors from the configuration, the app behind them, its listeners.

The only place where `comity.net` and `comity.app` meet. Decides nothing about Matrix.
"""

from __future__ import annotations

import asyncio
import fcntl
import gc
import logging
import os
import resource
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path

from comity import __version__
from comity.app import build
from comity.cli.files import CannotRun, ensure_signing_key, make_private_folder
from comity.config import Config, Listener
from comity.net.dns import DnsResolver
from comity.net.http_client import HttpsTransport
from comity.net.http_server import HttpServer, TlsContext, server_ssl_context
from comity.net.pausing import GreenletPausing
from comity.net.processes import ProcessOffload
from comity.net.smtp import SmtpMail
from comity.net.system import SystemClock, SystemEntropy, ThreadOffload
from comity.ports import NO_MAIL, Entropy, Mail, Ports

logger = logging.getLogger(__name__)

#: Bytes of a request's body: a transaction of 50 PDUs and 100 EDUs of 64 KiB each is 10 MiB.
MAX_BODY_BYTES = 16 << 20
#: Allocations between two collections of the youngest objects; then how many of each generation's
#: collections go before one of the next.
COLLECTOR_THRESHOLDS = (100_000, 20, 100)
#: Files and sockets open at once: 20,000 connections of clients, 4,000 kept to other servers, and what
#: is on its way or belongs to the database.
MAX_OPEN_FILES = 32_768
#: Seconds that requests are given to finish after SIGTERM.
GRACE_SECONDS = 10.0
#: Threads for hashes of passwords: what fills a small machine, and the memory of four at most.
PATIENT_THREADS = min(4, os.cpu_count() or 1)
#: They give way to the event loop: of a processor that both want, they get about a tenth.
NICENESS = 10
#: How this server introduces itself to others.
USER_AGENT = f"comity/{__version__}"


async def serve(config: Config, told_to_end: asyncio.Event) -> None:
    """Serve until told to end; finish what is under way. Raises CannotRun, ConfigError."""
    entropy, taken_over = SystemEntropy(), list[str]()
    allow_open_files()
    with alone(config.data_dir):
        ensure_signing_key(config, entropy)
        tls_contexts = [_tls_context(config, listener) for listener in config.listeners]
        # Closed in the opposite order: first the sockets, so that what is under way can finish.
        async with AsyncExitStack() as stack:
            ports = await _doors(config, entropy, stack)
            app = build(config, ports)

            def end(why: str) -> None:
                taken_over.append(why)
                told_to_end.set()

            app.when_taken_over(end)
            stack.push_async_callback(app.stop)
            await app.start()
            _calm_the_collector()
            server = HttpServer(app.handle, max_body_bytes=MAX_BODY_BYTES, at_once=app.router.at_once)
            stack.push_async_callback(server.close, GRACE_SECONDS)
            for listener, context in zip(config.listeners, tls_contexts, strict=True):
                with _explained(f"cannot listen on {listener.bind}"):
                    await server.listen(listener.bind, listener.serves, context)
            await told_to_end.wait()
            logger.info("finishing what is under way")
            app.wake_waiters()
    if taken_over:
        raise CannotRun(taken_over[0])
    logger.info("ended")


async def _doors(config: Config, entropy: Entropy, stack: AsyncExitStack) -> Ports:
    """Every door open; `stack` closes them. Raises CannotRun."""
    offload, transport, outbound = ThreadOffload(), _transport(config), _outbound(config)
    stack.push_async_callback(offload.close)
    patient = ThreadOffload(PATIENT_THREADS, niceness=NICENESS)
    stack.push_async_callback(patient.close)
    crowd = ProcessOffload(offload)
    stack.push_async_callback(crowd.close)
    with _explained(f"{_certificate_files(config)} cannot be used"):
        await transport.open()
    stack.push_async_callback(transport.close)
    with _explained(f"outbound.trusted_ca ({_listed(config.outbound.trusted_ca)}) cannot be used"):
        await outbound.open()
    stack.push_async_callback(outbound.close)
    mail: Mail = NO_MAIL
    if config.email.smtp_url is not None and config.email.sender is not None:
        mail = smtp = SmtpMail(config.email.smtp_url, config.email.sender, config.outbound.trusted_ca)
        await smtp.open()
        stack.push_async_callback(smtp.close)
    return Ports(
        SystemClock(), entropy, transport, DnsResolver(), offload, GreenletPausing(), outbound, mail,
        patient, crowd,
    )  # fmt: skip


def _tls_context(config: Config, listener: Listener) -> TlsContext | None:
    """What a listener speaks TLS with; None if it does not. Raises CannotRun."""
    if config.tls is None or not listener.tls:
        return None
    files = f"[tls] {config.tls.certificate} and {config.tls.private_key}"
    if listener.client_certificates:
        files += f", or federation.trusted_ca ({_listed(config.federation.trusted_ca)})"
    with _explained(f"{files} cannot be used"):
        return server_ssl_context(
            config.tls.certificate,
            config.tls.private_key,
            listener.client_certificates,
            config.federation.trusted_ca,
        )


def _transport(config: Config) -> HttpsTransport:
    federation = config.federation
    client_certificate = None
    if federation.client_certificate is not None and federation.client_private_key is not None:
        client_certificate = federation.client_certificate, federation.client_private_key
    return HttpsTransport(
        trusted_ca=federation.trusted_ca,
        verify_certificates=federation.verify_certificates,
        allow_ranges=federation.allow_ranges,
        user_agent=USER_AGENT,
        client_certificate=client_certificate,
    )


def _outbound(config: Config) -> HttpsTransport:
    return HttpsTransport(
        trusted_ca=config.outbound.trusted_ca,
        verify_certificates=True,
        allow_ranges=config.outbound.allow_ranges,
        user_agent=USER_AGENT,
    )


def _listed(files: Sequence[Path]) -> str:
    return ", ".join(map(str, files))


def _certificate_files(config: Config) -> str:
    """The files that connections to other servers are made with, for a sentence."""
    text = f"federation.trusted_ca ({_listed(config.federation.trusted_ca)})"
    if config.federation.client_certificate is not None:
        text += f" or federation.client_certificate ({config.federation.client_certificate}) with its key"
    return text


def allow_open_files() -> None:
    """Raise this process's limit of open files as far as is needed and the system allows.

    Systems set it to 1,024 for the sake of old programs; each connection counts, and a message to a large
    room opens one to each of its servers.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(MAX_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
        except (OSError, ValueError) as error:
            logger.warning("no more than %d files can be opened: %s", soft, error)


def _calm_the_collector() -> None:
    """Have Python look for cycles seldom, and never among what lives as long as the process.

    The caches hold some hundred thousand objects that make no cycles; looking through them all
    every few hundred requests took a tenth of a second each time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECTOR_THRESHOLDS)


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """What the operating system refuses, as a sentence for the operator."""
    try:
        yield
    except OSError as error:
        raise CannotRun(f"{what}: {error.strerror or error}") from None


@contextmanager
def alone(data_dir: Path) -> Iterator[None]:
    """Hold data_dir against a second server: two that write one database would tear it apart.

    The lock is the kernel's and ends with the process, however that ends.
    """
    make_private_folder(data_dir)
    with _explained(f"data_dir {data_dir} cannot be written"):
        file = (data_dir / "lock").open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise CannotRun(f"another comity is running on {data_dir}; stop that one first") from None
        yield
