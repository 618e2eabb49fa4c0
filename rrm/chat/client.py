"""One OpenAI-compatible server: what is sent to it, and every way in which it may fail to answer as
a value."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import os
import ssl
import time
import zlib
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Self, TypeVar

import httpx

from rrm.chat.faults import (
    Fault,
    compact,
    fault_of,
    holds_error,
    is_transient,
    one_line,
    parsed,
    words_of,
)
from rrm.chat.protocol import ChatRequest, Completion, Form, NoCompletion, read_completion
from rrm.chat.stop import StopRule
from rrm.chat.waits import asked_wait, backoff
from rrm.errors import InputError
from rrm.records import Failure
from rrm.runtime.secrets import key_of, know_url

log = logging.getLogger(__name__)

PER_POOL = 16
"""Requests at once in one pool of connections: httpx takes longer per request the more a pool
holds."""
KEPT_OPEN = 2.0
"""Seconds that an idle connection is kept: many servers close one after 5, and what is sent just
then is lost."""
LONGEST_ERROR = 2**16
"""Bytes of an error's body that are read."""
LONGEST_LIST = 2**23
"""Bytes of an answer to anything but a chat request."""
FIRST_WAIT, LONGEST_WAIT = 0.5, 30.0
"""Seconds before another try, where the server does not say how many: they double every time."""
T = TypeVar("T")
Send = Callable[[ChatRequest], Awaitable[Completion | Fault]]


@dataclass
class Pool:
    """A pool of connections, and how many requests are under way in it."""

    http: httpx.AsyncClient
    busy: int = 0


class TooLong(ValueError):
    """An answer is longer than any sound one."""


class ChatClient:
    """A server at a base URL (most end in /v1), for one event loop. Its key is read from the
    environment variable `key_variable`.

    An attempt ends within `timeout` seconds, whatever the server does, as a completion or as a
    fault; nothing is tried twice here. Redirects are not followed, and proxy variables do not apply
    to this machine's own addresses. Raises InputError for an address that is none, a key that no
    header can hold, and a proxy that cannot be used.
    """

    def __init__(
        self, base_url: str, *, key_variable: str = "OPENAI_API_KEY", timeout: float = 120.0
    ):
        self.key_variable, self.timeout = key_variable, timeout
        self.url = address(base_url)
        know_url(base_url)
        self.where = str(self.url.copy_with(username=None, password=None, query=None))
        self.key = (key_of(key_variable) or "").strip()
        if not (self.key.isascii() and self.key.isprintable()):
            raise InputError(
                f"The key in {key_variable} holds characters that no key has; set the variable anew."
            )
        self.one_by_one = False
        """Whether the server has shown that it does not know `n`."""
        self.pools = [self.pool()]

    def pool(self) -> Pool:
        """One more pool of connections."""
        headers = {"Accept-Encoding": "gzip", "User-Agent": "edit-rrm"}
        headers |= {"Authorization": f"Bearer {self.key}"} if self.key else {}
        try:
            return Pool(
                httpx.AsyncClient(
                    headers=headers, timeout=None, verify=certificates(), trust_env=not is_loopback(self.url.host),
                    limits=httpx.Limits(max_connections=None, max_keepalive_connections=PER_POOL, keepalive_expiry=KEPT_OPEN),
                )
            )  # fmt: skip
        except (
            ImportError,
            ValueError,
        ) as error:  # a SOCKS proxy without its package; a proxy that is no address
            why = str(error).split(". ")[0].rstrip(".")
            raise InputError(
                f"The proxy that the environment names cannot be used ({why}); run pip install 'httpx[socks]', "
                "correct ALL_PROXY, HTTPS_PROXY and HTTP_PROXY, or name the server in NO_PROXY."
            ) from error

    async def attempt(
        self, request: ChatRequest, within: float | None = None
    ) -> Completion | Fault:
        """The server's answer to a request that is sent once, or why there is none after `within`
        seconds (the time-out) at most."""
        value = await self.answer("/chat/completions", request.body(), request.most_bytes, within)
        if isinstance(value, Fault):
            return value
        try:
            return read_completion(value, request)
        except (NoCompletion, RecursionError) as error:
            return is_transient(
                "server_gone", f"{self.where} sent no chat completion but {error}: {compact(value)}"
            )

    async def answer(
        self, path: str, body: Form | Mapping[str, Any], most: int, within: float | None = None
    ) -> dict[str, Any] | Fault:
        """The JSON object that answers a POST, which is no error, or why there is none. Never
        raises."""
        got = await self.exchange(path, body, most, within)
        if isinstance(got, Fault):
            return got
        value = parsed(got)
        if not isinstance(value, dict):
            return is_transient(
                "server_gone", f"{self.where} sent no JSON object but {words_of(value, got)[2]}"
            )
        if holds_error(value):
            return fault_of(200, got, names_in(body), self.key_variable)
        return value

    async def models(self, within: float = 20.0) -> list[str] | Fault:
        """The names in the server's list of models: a hint, for many a sound server has no list, or
        not all of it."""
        got = await self.exchange("/models", None, LONGEST_LIST, within)
        if isinstance(got, Fault):
            return got
        value = parsed(got)
        entries = value.get("data") if isinstance(value, dict) else None
        listed = entries if isinstance(entries, list) else []
        return [
            one_line(entry["id"])
            for entry in listed
            if isinstance(entry, dict) and isinstance(entry.get("id"), str)
        ]

    async def exchange(
        self,
        path: str,
        body: Form | Mapping[str, Any] | None,
        most: int,
        within: float | None = None,
    ) -> bytes | Fault:
        """The bytes of an answer with a status of success: to a POST of this JSON or form, or to a
        GET without a body. Never raises."""
        seconds = self.timeout if within is None else min(within, self.timeout)
        pool = min(self.pools, key=lambda p: p.busy)
        if pool.busy >= PER_POOL:
            pool = self.pool()
            self.pools.append(pool)
        pool.busy += 1
        try:
            async with asyncio.timeout(seconds):
                return await self.exchange_in(pool.http, path, body, most)
        except TimeoutError:
            return is_transient("timed_out", f"{self.where} did not answer within {seconds:.3g} s")
        except httpx.ConnectError as error:
            return Fault(
                is_transient("server_gone", f"{self.where}: {error}").failure,
                "moment",
                reached=False,
            )
        except TooLong:
            return is_transient(
                "server_gone", f"{self.where} sent an answer of more than {most} bytes"
            )
        except Exception as error:  # whatever a connection and its libraries come up with is a lost attempt, and no lost run
            said = str(error.__cause__ or error) or type(error).__name__
            return is_transient("server_gone", f"{self.where}: {said}")
        finally:
            pool.busy -= 1

    async def exchange_in(
        self, http: httpx.AsyncClient, path: str, body: Form | Mapping[str, Any] | None, most: int
    ) -> bytes | Fault:
        """As `exchange`, without an end of its own."""
        url = self.url.copy_with(path=self.url.path.rstrip("/") + path)
        async with http.stream(
            "GET" if body is None else "POST", url, **content_of(body)
        ) as response:
            if response.is_success:
                return await read_body(response, most, cut=False)
            raw = await read_body(response, LONGEST_ERROR, cut=True)
            if response.is_redirect:
                raw = (
                    f"a redirect to {origin(response.headers.get('location', 'nowhere'))}".encode()
                )
            wait = asked_wait(response.headers, time.time())
            return fault_of(response.status_code, raw, names_in(body), self.key_variable, wait)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exception: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes every connection."""
        for pool in self.pools:
            await pool.http.aclose()

    def without_n(self) -> None:
        """Notes, and says once, that the server is asked for one answer at a time."""
        if not self.one_by_one:
            self.one_by_one = True
            log.warning("%s does not take 'n', and is asked for one answer at a time", self.where)


def content_of(body: Form | Mapping[str, Any] | None) -> dict[str, Any]:
    """The body as httpx takes it."""
    if body is None:
        return {}
    if isinstance(body, Form):
        return {"data": body.fields, "files": body.files}
    return {
        "content": json.dumps(body, separators=(",", ":")).encode(),
        "headers": {"Content-Type": "application/json"},
    }


def names_in(body: Form | Mapping[str, Any] | None) -> set[str]:
    """The names of a request's fields."""
    return set(body.fields if isinstance(body, Form) else body or ())


async def every_choice(client: ChatClient, request: ChatRequest, send: Send) -> Completion | Fault:
    """All the answers that a request wants, through `send`, which makes one request with as many
    tries as it likes.

    A server that ignores or refuses `n` is asked for what lacks one by one, each with a seed of its
    own.
    """
    parts: list[Completion] = []
    if request.n == 1 or not client.one_by_one:
        got = await send(request)
        if isinstance(got, Fault):
            if request.n == 1 or got.field != "n":
                return got
        else:
            parts.append(got)
            if len(got.choices) == request.n:
                return got
        client.without_n()
    have = sum(len(part.choices) for part in parts)
    seeds = [None if request.seed is None else request.seed + k for k in range(have, request.n)]
    for part in await asyncio.gather(*(send(replace(request, n=1, seed=seed)) for seed in seeds)):
        if isinstance(part, Fault):
            return part
        parts.append(part)
    return joined(parts)


def joined(parts: list[Completion]) -> Completion:
    """Several completions as one; a count of tokens is known where all of them are."""
    prompts, completions = [p.prompt_tokens for p in parts], [p.completion_tokens for p in parts]
    return Completion(
        tuple(choice for part in parts for choice in part.choices),
        None if None in prompts else sum(count or 0 for count in prompts),
        None if None in completions else sum(count or 0 for count in completions),
    )


async def patiently(
    attempt: Callable[[], Awaitable[T | Fault]], retries: int, rule: StopRule | None = None
) -> T | Fault:
    """What an attempt, and at most so many further ones, come to; each after the wait that the
    server asks for, or twice the one before.

    The rule takes note of it. Where the run was stopped meanwhile, nothing is asked any more, and
    the fault says why.
    """
    for tried in range(retries + 1):
        if rule is not None and rule.reason is not None:
            return Fault(Failure(kind="rejected", detail=one_line(rule.reason)), "everything")
        got = await attempt()
        if not isinstance(got, Fault) or got.scope != "moment" or tried == retries:
            break
        wait = (
            backoff(tried, FIRST_WAIT, LONGEST_WAIT)
            if got.wait is None
            else min(got.wait, LONGEST_WAIT)
        )
        await asyncio.sleep(wait)
    if rule is not None:
        rule.note(got)
    return got


def reached(url: str, seconds: float, body: Any = None) -> httpx.Response:
    """The answer to one GET, or to one POST of this JSON; proxy variables do not apply to this
    machine's own addresses.

    Raises httpx.HTTPError.
    """
    direct = is_loopback(httpx.URL(url).host)
    return httpx.request(
        "GET" if body is None else "POST", url, json=body, timeout=seconds, trust_env=not direct
    )


def spare_loopback() -> None:
    """From now on no library in this process asks this machine's own addresses through a proxy."""
    for name in ("NO_PROXY", "no_proxy"):
        os.environ[name] = ",".join(filter(None, [os.environ.get(name), "127.0.0.1,localhost"]))


def waited(work: Coroutine[Any, Any, T]) -> T:
    """The result of work in an event loop of its own, whether or not the caller is in one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


async def read_body(response: httpx.Response, most: int, cut: bool) -> bytes:
    """The body, unpacked, of at most so many bytes; one that is longer is `cut` there, or else
    raises TooLong."""
    coding = response.headers.get("content-encoding", "identity").strip().lower()
    if coding not in ("", "identity", "gzip", "x-gzip", "deflate"):
        raise ValueError(f"an answer in the coding '{coding}', which was not asked for")
    unpack = None if coding in ("", "identity") else zlib.decompressobj(zlib.MAX_WBITS | 32)
    found = bytearray()
    async for chunk in response.aiter_raw():
        found += chunk if unpack is None else unpack.decompress(chunk, most + 1 - len(found))
        if len(found) > most:
            if not cut:
                raise TooLong
            break
    return bytes(found[:most])


def address(base_url: str) -> httpx.URL:
    """The base URL. Raises InputError where it is none."""
    try:
        url = httpx.URL(base_url.strip())
    except httpx.InvalidURL as error:
        raise InputError(
            f"'{base_url}' is no address of a server ({error}); write http://127.0.0.1:8000/v1."
        ) from error
    if url.scheme not in ("http", "https") or not url.host:
        raise InputError(f"'{base_url}' is no address of a server; write http://127.0.0.1:8000/v1.")
    return url.copy_with(path=url.path.rstrip("/"))


def origin(location: str) -> str:
    """Scheme, host and path of an address, without what may be secret in it."""
    try:
        return str(
            httpx.URL(location).copy_with(username=None, password=None, query=None, fragment=None)
        )
    except (httpx.InvalidURL, ValueError):
        return "what is no address"


def is_loopback(host: str) -> bool:
    """Whether the address is this machine's own."""
    try:
        found = ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
    return found.is_loopback or found.is_unspecified


@lru_cache(maxsize=1)
def certificates() -> ssl.SSLContext:
    """The certificates that servers are checked by; reading them takes a while."""
    return httpx.create_ssl_context()
