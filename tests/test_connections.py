"""Connections are bounded in number and in time: silence keeps nobody out."""

import asyncio
import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.node import connections
from brakeline.node.connections import bounded, capacity
from brakeline.node.http import HANDLERS, _config, read_body

HALF = b"POST /add HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{"


async def add(request: Request) -> Response:
    return Response(str(len(await read_body(request, 1000))))


async def slow(_: Request) -> Response:
    await asyncio.sleep(1.0)
    return Response("slow")


async def large(_: Request) -> Response:
    return Response(b"x" * 64 * 2**20)


@contextmanager
def serving(limit: int) -> Iterator[tuple[str, int]]:
    routes = [Route("/add", add, methods=["POST"]), Route("/slow", slow), Route("/large", large)]
    app = Starlette(routes=routes, exception_handlers=HANDLERS)
    config = uvicorn.Config(app, loop="asyncio", http=bounded(limit), ws="none", log_level="warning", access_log=False)
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield listener.getsockname()
        server.should_exit = True
        thread.join()


def open_(address: tuple[str, int], data: bytes = b"") -> socket.socket:
    s = socket.create_connection(address, timeout=5)
    s.sendall(data)
    return s


def ended(s: socket.socket) -> bool:
    """Whether the server has closed the connection, or does within the socket's time."""
    try:
        return s.recv(1) == b""
    except ConnectionResetError:
        return True
    except TimeoutError:
        return False


def hears(s: socket.socket, text: bytes) -> bool:
    """Whether the answer has this in it."""
    got = b""
    while text not in got and (data := s.recv(1000)):
        got += data
    return text in got


@pytest.mark.parametrize("half", [b"", b"POST /add", HALF])
def test_those_who_say_nothing_give_way(half: bytes) -> None:
    with serving(20) as address:
        url = f"http://{address[0]}:{address[1]}"
        held = [open_(address, half) for _ in range(60)]
        for _ in range(5):
            assert httpx.post(f"{url}/add", content=b"{}").text == "2"
        assert ended(held[0]), "the oldest has given way"
        for s in held:
            s.close()


def test_what_is_being_answered_is_not_cut_off() -> None:
    with serving(4) as address:
        busy = [open_(address, b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n") for _ in range(4)]
        time.sleep(0.3)
        assert ended(open_(address, HALF)), "there is no room while all are being answered"
        assert all(hears(s, b"slow") for s in busy)


def test_a_request_arrives_in_time_or_not_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST", 0.5)
    with serving(20) as address:
        silent, drips, good = open_(address), open_(address, b"POST /add HTTP/1.1\r\nHost: x\r\n"), open_(address)
        good.sendall(b"GET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
        stop = threading.Event()

        def drip() -> None:
            while not stop.wait(0.1):
                try:
                    drips.sendall(b"X: y\r\n")
                except OSError:
                    return

        thread = threading.Thread(target=drip)
        thread.start()
        assert ended(silent)
        assert ended(drips), "however it drips"
        stop.set()
        thread.join()
        assert hears(good, b"slow"), "an answer may take longer than a request"


def test_an_answer_is_taken_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER", 0.5)
    with serving(20) as address:
        s = open_(address, b"GET /large HTTP/1.1\r\nHost: x\r\n\r\n")
        s.recv(1000)
        time.sleep(1.0)
        got = 0
        try:
            while data := s.recv(2**20):
                got += len(data)
        except ConnectionResetError:
            pass
        assert got < 64 * 2**20


def test_a_hang_up_is_no_line_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    with serving(200) as address:
        with caplog.at_level(logging.WARNING):
            for s in [open_(address, HALF) for _ in range(50)]:
                s.close()
            url = f"http://{address[0]}:{address[1]}"
            assert httpx.post(f"{url}/add", content=b"{}").text == "2"
            time.sleep(0.2)
        assert caplog.records == []


def test_one_connection_carries_many_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST", 0.3)
    with serving(20) as address, httpx.Client(base_url=f"http://{address[0]}:{address[1]}") as client:
        for _ in range(5):
            assert client.post("/add", content=b"x" * 500).text == "500"
            time.sleep(0.15)


def test_the_capacity_leaves_room_for_files() -> None:
    assert 16 <= capacity() <= 8192


def test_a_half_sent_request_behind_a_whole_one_gives_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST", 0.5)
    with serving(20) as address:
        held = [open_(address, b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n" + HALF) for _ in range(5)]
        for s in held:
            assert hears(s, b"404")
            s.settimeout(5)
            while s.recv(1000):  # its answer, and then the end
                pass


HEADS = (
    b"Transfer-Encoding: chunked",
    b"TRANSFER-ENCODING:chunked",
    b"X: 1\nTransfer-Encoding : x",
    b"X: " + b"y" * 17000,
)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("before", [b"", b"GET /none HTTP/1.1\r\nHost: x\r\n\r\n"])
def test_what_costs_more_to_read_than_to_write_is_refused(head: bytes, before: bytes) -> None:
    with serving(20) as address:
        s = open_(address, before + b"POST /add HTTP/1.1\r\nHost: x\r\n" + head + b"\r\n\r\n" + b"1\r\nx\r\n" * 40000)
        got = b""
        with suppress(ConnectionResetError):
            while data := s.recv(10**6):
                got += data
        assert b"HTTP/1.1 400" in got
        assert b"HTTP/1.1 200" not in got


def test_a_small_answer_that_nobody_takes_ends_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the server has closed it: what lies in its buffer holds it."""
    monkeypatch.setattr(connections, "ANSWER", 0.5)
    with serving(20) as address:
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(address)
        s.sendall(b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        time.sleep(2.5)
        taken = 0
        with suppress(ConnectionResetError):
            while data := s.recv(10**6):
                taken += len(data)
        assert taken < 64 * 2**20


def test_whoever_reads_slowly_and_always_gets_it_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "ANSWER", 0.5)
    with serving(20) as address:
        s = open_(address, b"GET /large HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        taken, began = 0, time.monotonic()
        while data := s.recv(2**20):
            taken += len(data)
            time.sleep(0.03)
        assert time.monotonic() - began > 1
        assert taken > 64 * 2**20


def test_making_room_is_cheap_and_keeps_the_bound() -> None:
    with serving(50) as address:
        with closing(socket.create_connection(address)) as first:
            first.sendall(b"GET /none HTTP/1.1\r\nHost: x\r\n\r\nGET /slow HTTP/1.1\r\nHost: x\r\n\r\n")
            assert hears(first, b"Not Found")  # the other one is being answered from here on
            crowd = [open_(address) for _ in range(500)]
            assert hears(first, b"slow"), "what is being answered is not cut off"
            for s in crowd[:400]:
                s.settimeout(5)
                assert ended(s)
        for s in crowd:
            s.close()


def test_loop_is_asyncios() -> None:
    """uvicorn takes uvloop wherever something else has installed it; its transports know no `max_size`."""
    assert _config(Starlette()).loop == "asyncio"
