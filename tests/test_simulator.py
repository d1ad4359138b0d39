"""The simulator itself: every kind of loss it claims to model is seen by code that does not guard against it.

A wrong fault model is false confidence, so this comes before what is tested with it.
"""

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from random import Random
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from brakeline.core.errors import Malformed, Unavailable
from brakeline.node import ports
from brakeline.node.disk import connect, replace_file, transaction, write_atomic
from brakeline.node.peers import ask, http_client, wire, within
from brakeline.testing.disk import HostDisk
from brakeline.testing.loop import Condition, Event, Stuck, VirtualLoop, fiber, run
from brakeline.testing.process import Host, Process
from brakeline.testing.wire import Network

HOSTS = ("alpha", "beta")


class Machines:
    """Two hosts and their network; `play` runs a coroutine on their clock."""

    def __init__(self, root: Path, seed: int = 0) -> None:
        self.loop = VirtualLoop()
        self.rng = Random(seed)
        self.network = Network(self.rng, self.rng.randbytes)
        self.hosts = {name: Host(name, root, self.rng, self.loop, 1000.0) for name in HOSTS}
        for host in self.hosts.values():
            host.home.mkdir(parents=True, exist_ok=True)
        self.failures: list[Exception] = []

    def process(self, name: str) -> Process:
        host = self.hosts[name.split(".")[1]]
        return Process(host, name, self.network, lambda process, error: self.failures.append(error))

    def play(self, work: Any) -> Any:
        return run(self.loop, work)

    def do(self, work: Callable[[], Any], name: str = "client.alpha") -> Any:
        """In a process, as blocking code."""
        process = self.process(name)

        async def main() -> Any:
            return await process.spawn(fiber(work), quiet=True)

        return self.play(main())


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    made = Machines(tmp_path)
    yield made
    if not made.loop.is_closed():
        made.loop.close()


# ---- the loop ----


def test_time_passes_only_while_all_wait(machines: Machines) -> None:
    def work() -> tuple[float, float, int]:
        clock = ports.clock()
        before = clock.monotonic(), clock.wall(), clock.boot_ns()
        clock.sleep(3600)
        return clock.monotonic() - before[0], clock.wall() - before[1], clock.boot_ns() - before[2]

    assert machines.do(work) == (3600.0, 3600.0, 3600 * 10**9)


def test_what_waits_for_ever_is_noticed(machines: Machines) -> None:
    with pytest.raises(Stuck, match="nothing is scheduled"):
        machines.do(lambda: ports.clock().event().wait())


def test_what_spins_is_noticed(machines: Machines) -> None:
    def spin() -> None:
        while True:
            ports.clock().sleep(0)

    with pytest.raises(Stuck, match="time stands still"):
        machines.do(spin)


def test_locks_exclude_and_conditions_wake(machines: Machines) -> None:
    seen: list[str] = []

    def work() -> None:
        clock = ports.clock()
        changed, over, value = clock.condition(), clock.event(), [0]

        def waiter(name: str) -> None:
            with changed:
                assert changed.wait_for(lambda: value[0] > 0, 5)
                seen.append(name)
                clock.sleep(1)  # under the lock: the other one waits for it
                seen.append(name)
            over.set()

        for name in ("a", "b"):
            clock.start(name, lambda name=name: waiter(name))  # type: ignore[misc]
        clock.sleep(1)
        with changed, changed:  # its holder may take it again
            value[0] = 1
            changed.notify_all()
        over.wait()
        clock.sleep(2)

    machines.do(work)
    assert seen == ["a", "a", "b", "b"]


def test_a_wait_ends_in_time(machines: Machines) -> None:
    def work() -> tuple[bool, Any, float]:
        event, condition = Event(), Condition()
        with condition:
            found = condition.wait_for(lambda: None, 2)
        return event.wait(1), found, ports.clock().monotonic()

    assert machines.do(work) == (False, None, 3.0)


def test_at_once_gives_what_comes_as_it_comes(machines: Machines) -> None:
    def after(seconds: float) -> float:
        ports.clock().sleep(seconds)
        return seconds

    assert machines.do(lambda: list(ports.clock().at_once(after, [3.0, 1.0, 9.0, 2.0], 5))) == [1.0, 2.0, 3.0]


def test_a_process_that_was_killed_does_nothing_more(machines: Machines) -> None:
    process = machines.process("victim.alpha")
    path = process.host.home / "x"

    def work() -> None:
        try:
            ports.clock().sleep(5)
        finally:
            write_atomic(path, b"last words")

    async def main() -> None:
        process.spawn(fiber(work))
        await asyncio.sleep(1)
        process.kill()
        await asyncio.sleep(10)

    machines.play(main())
    assert not path.exists()
    assert machines.failures == []


# ---- the disk: every kind of loss ----


def outcomes(tmp_path: Path, write: Callable[[Path], None], name: str = "x") -> set[bytes | None]:
    """What may be in a file of this name after a power cut right after `write`, over many draws.

    `write` is given the path of the file x, which had b"old", synced, before.
    """
    found = set()
    for seed in range(60):
        machines = Machines(tmp_path / str(seed), seed)
        home = machines.hosts["alpha"].home

        def work(path: Path = home / "x") -> None:
            write_atomic(path, b"old")
            write(path)

        machines.do(work)
        machines.hosts["alpha"].lose_power()
        found.add((home / name).read_bytes() if (home / name).exists() else None)
    return found


def test_what_is_written_whole_and_synced_stays(tmp_path: Path) -> None:
    assert outcomes(tmp_path, lambda path: write_atomic(path, b"newer")) == {b"newer"}


def test_bytes_that_were_not_synced_are_lost_or_torn(tmp_path: Path) -> None:
    """Renamed over the old ones, and the name synced: the old ones are gone, the new ones may be."""

    def careless(path: Path) -> None:
        disk, new = ports.disk(), path.with_name("new")
        disk.write(new, b"newer", sync=False)
        disk.rename(new, path)
        disk.sync(path.parent)

    found = outcomes(tmp_path, careless)
    assert {b"newer", b""} < found
    assert any(data and data != b"newer" and b"newer".startswith(data) for data in found)
    assert b"old" not in found


def test_a_name_that_was_not_synced_may_be_the_old_one(tmp_path: Path) -> None:
    def careless(path: Path) -> None:
        disk, new = ports.disk(), path.with_name("new")
        disk.write(new, b"newer", sync=True)
        disk.rename(new, path)

    assert outcomes(tmp_path, careless) == {b"old", b"newer"}
    new = outcomes(tmp_path / "more", lambda path: ports.disk().write(path.with_name("y"), b"1", sync=True), "y")
    assert new == {None, b"1"}, "a file whose folder was not synced is there, or not"


def test_a_file_overwritten_in_place_is_torn(tmp_path: Path) -> None:
    found = outcomes(tmp_path, lambda path: ports.disk().write(path, b"newer", sync=False))
    assert {b"old", b"newer"} <= found
    assert b"" in found or b"ne" in found


def test_what_was_removed_may_come_back(tmp_path: Path) -> None:
    found = set()
    for seed in range(20):
        machines = Machines(tmp_path / str(seed), seed)
        path = machines.hosts["alpha"].home / "folder" / "x"

        def work(path: Path = path) -> None:
            write_atomic(path, b"old")
            ports.disk().remove(path.parent)

        machines.do(work)
        assert not path.exists()
        machines.hosts["alpha"].lose_power()
        found.add(path.exists())
    assert found == {True, False}


def rows(path: Path) -> int:
    with sqlite3.connect(path) as db:
        return int(db.execute("SELECT count(*) FROM t").fetchone()[0])


def commits(pragma: str) -> Callable[[Path], None]:
    def work(path: Path) -> None:
        db = connect(path)
        if pragma:
            db.execute(pragma)
        db.execute("CREATE TABLE t (x)")
        for number in range(5):
            with transaction(db):
                db.execute("INSERT INTO t VALUES (?)", (number,))

    return work


@pytest.mark.parametrize(("pragma", "kept"), [("", {5}), ("PRAGMA synchronous=OFF", {0, 1, 2, 3, 4, 5})])
def test_the_last_commits_go_where_they_were_not_synced(tmp_path: Path, pragma: str, kept: set[int]) -> None:
    found = set()
    for seed in range(60):
        machines = Machines(tmp_path / str(seed), seed)
        host = machines.hosts["alpha"]
        path = host.home / "db"
        machines.do(lambda path=path: commits(pragma)(path))  # type: ignore[misc]
        assert host.disk.is_durable(path) == (not pragma)
        host.lose_power()
        try:
            found.add(rows(path))
        except sqlite3.OperationalError:  # not even the table
            found.add(0)
    assert found == kept


def test_a_process_that_dies_loses_what_it_had_not_committed_and_no_more(machines: Machines) -> None:
    path = machines.hosts["alpha"].home / "db"
    process = machines.process("victim.alpha")

    def work() -> None:
        commits("PRAGMA synchronous=OFF")(path)
        db = connect(path)
        with transaction(db):
            db.execute("INSERT INTO t VALUES (9)")
            ports.clock().sleep(10)

    async def main() -> None:
        process.spawn(fiber(work))
        await asyncio.sleep(5)
        process.kill()
        await asyncio.sleep(1)

    machines.play(main())
    assert rows(path) == 5


def test_a_commit_that_failed_may_have_lasted(tmp_path: Path) -> None:
    """Half of those that are said to have failed did; nobody may assume either."""
    found = set()
    for seed in range(80):
        machines = Machines(tmp_path / str(seed), seed)
        path = machines.hosts["alpha"].home / "db"

        def work(machines: Machines = machines, path: Path = path) -> bool:
            commits("")(path)
            machines.hosts["alpha"].disk.failing = 0.3
            db = connect(path)
            try:
                with transaction(db):
                    db.execute("INSERT INTO t VALUES (9)")
            except sqlite3.OperationalError:
                return False
            return True

        try:
            told = machines.do(work)
        except sqlite3.OperationalError:  # at connecting
            continue
        found.add((told, rows(path)))
    assert found == {(True, 6), (False, 6), (False, 5)}


def test_a_write_that_fails_may_be_half_there(tmp_path: Path) -> None:
    found = set()
    for seed in range(60):
        machines = Machines(tmp_path / str(seed), seed)
        path = machines.hosts["alpha"].home / "x"

        def work(machines: Machines = machines, path: Path = path) -> None:
            machines.hosts["alpha"].disk.failing = 0.4
            with suppress(Unavailable):
                write_atomic(path, b"new")

        machines.do(work)
        found |= {p.read_bytes() for p in path.parent.iterdir()}
    assert found == {b"n", b"new"}


def test_power_may_go_at_any_operation(tmp_path: Path) -> None:
    """Between the bytes and the name, too: then the old file is there, whole."""
    found = set()
    for seed in range(200):
        machines = Machines(tmp_path / str(seed), seed)
        host = machines.hosts["alpha"]
        host.on_power_failure = Host.lose_power
        path = host.home / "x"
        process = machines.process("writer.alpha")

        def work(path: Path = path, host: Host = host) -> None:
            write_atomic(path, b"old")
            host.power_fails = 0.2
            write_atomic(path, b"newer")

        async def main(process: Process = process, work: Callable[[], None] = work) -> None:
            process.spawn(fiber(work))
            await asyncio.sleep(5)

        machines.play(main())
        found.add((process.alive, path.read_bytes()))
    assert found == {(True, b"newer"), (False, b"old"), (False, b"newer")}


def test_old_state_comes_back(machines: Machines) -> None:
    host = machines.hosts["alpha"]
    folder = host.home / "f"
    backups = []

    def work() -> None:
        write_atomic(folder / "x", b"1")
        commits("")(folder / "db")
        backups.append(host.disk.copy(folder))
        write_atomic(folder / "x", b"2")
        write_atomic(folder / "y", b"2")
        db = connect(folder / "db")
        with transaction(db):
            db.execute("INSERT INTO t VALUES (9)")

    machines.do(work)
    host.lose_power()
    assert rows(folder / "db") == 6
    host.disk.put_back(backups[0])
    assert ((folder / "x").read_bytes(), (folder / "y").exists(), rows(folder / "db")) == (b"1", False, 5)


def test_one_process_holds_a_lock_and_death_lets_go(machines: Machines) -> None:
    path = machines.hosts["alpha"].home / "lock"
    first = machines.process("first.alpha")
    second = machines.process("second.alpha")
    got: list[float] = []

    def hold() -> None:
        with ports.disk().lock(path, 1):
            ports.clock().sleep(100)

    def want() -> None:
        with pytest.raises(TimeoutError), ports.disk().lock(path, 1):
            raise AssertionError
        with ports.disk().lock(path, 10):
            got.append(ports.clock().monotonic())

    async def main() -> None:
        first.spawn(fiber(hold))
        second.spawn(fiber(want))
        await asyncio.sleep(3)
        first.kill()
        await asyncio.sleep(3)

    machines.play(main())
    assert len(got) == 1
    assert 3 <= got[0] < 3.2


def test_possible_is_all_that_a_power_cut_may_leave(tmp_path: Path) -> None:
    machines = Machines(tmp_path)
    disk: HostDisk = machines.hosts["alpha"].disk
    path = machines.hosts["alpha"].home / "x"

    def work() -> None:
        assert disk.possible(path) == [None]
        write_atomic(path, b"1")
        assert disk.possible(path) == [b"1"]
        replace_file(path, b"2", durable=False)
        assert disk.possible(path) == [b"1", b""]
        write_atomic(path, b"3")
        assert disk.possible(path) == [b"3"]

    machines.do(work)


# ---- the network ----


def serve(machines: Machines, name: str = "server.beta") -> list[bytes]:
    """A server that keeps what it was sent and sends it back."""
    got: list[bytes] = []

    async def echo(request: Request) -> Response:
        got.append(await request.body())
        if request.query_params.get("slow"):
            await asyncio.sleep(60)
        return Response(got[-1] * int(request.query_params.get("times", "1")))

    machines.process(name).app = Starlette(routes=[Route("/", echo, methods=["POST"])])
    return got


def post(body: bytes = b"x", query: str = "", seconds: float = 10.0) -> bytes:
    return ask(http_client("http://server.beta"), "POST", f"/{query}", 100, seconds=seconds, content=body).content


def test_a_request_reaches_its_server_and_takes_time(machines: Machines) -> None:
    got = serve(machines)
    assert machines.do(lambda: (post(b"hello"), ports.clock().monotonic()))[0] == b"hello"
    assert got == [b"hello"]
    assert 0 < machines.loop.time() < 0.02


def test_an_answer_has_a_bound_and_an_end(machines: Machines) -> None:
    serve(machines)

    def work() -> float:
        with pytest.raises(Malformed, match="over 100 bytes"):
            post(query="?times=101")
        before = ports.clock().monotonic()
        with pytest.raises(TimeoutError):
            post(query="?slow=1", seconds=2)
        with within(1), pytest.raises(TimeoutError):
            post(query="?slow=1", seconds=2)
        return ports.clock().monotonic() - before

    assert machines.do(work) == pytest.approx(3)


def test_nobody_answers_for_the_dead(machines: Machines) -> None:
    serve(machines)
    machines.hosts["beta"].processes["server.beta"].kill()
    with pytest.raises(ConnectionRefusedError):
        machines.do(post)


def test_a_server_that_dies_in_the_middle_resets(machines: Machines) -> None:
    serve(machines)
    machines.loop.call_later(1, machines.hosts["beta"].processes["server.beta"].kill)
    with pytest.raises(ConnectionResetError):
        machines.do(lambda: post(query="?slow=1", seconds=30))
    assert machines.loop.time() < 2


def test_a_cut_delays_or_resets_and_loses_nothing_for_ever(tmp_path: Path) -> None:
    """One way alone, too: then the server hears what the client takes for lost."""
    ends, heard = set(), set()
    for seed in range(40):
        machines = Machines(tmp_path / str(seed), seed)
        got = serve(machines)
        machines.network.cut["beta", "alpha"] = 5.0
        try:
            machines.do(lambda: post(seconds=30))
            ends.add("late")
        except ConnectionResetError:
            ends.add("reset")
        heard.add(len(got))
        assert machines.loop.time() >= 5
    assert ends == {"late", "reset"}
    assert heard == {1}


def test_a_request_is_carried_out_twice(machines: Machines) -> None:
    got = serve(machines)
    machines.network.double = 1.0

    def work() -> None:
        post()
        ports.clock().sleep(2)

    machines.do(work)
    assert got == [b"x", b"x"]


def test_loss_is_a_delay_or_a_reset(tmp_path: Path) -> None:
    ends = set()
    for seed in range(40):
        machines = Machines(tmp_path / str(seed), seed)
        serve(machines)
        machines.network.loss = 1.0
        try:
            machines.do(lambda: post(seconds=30))
            ends.add("late")
        except ConnectionResetError:
            ends.add("reset")
        assert machines.loop.time() > 0.2
    assert ends == {"late", "reset"}


def test_a_server_lies_where_it_is_made_to(machines: Machines) -> None:
    serve(machines)
    machines.network.tamper.append(lambda request, answer: answer._replace(content=b"a lie"))
    assert machines.do(post) == b"a lie"


def test_a_clock_jumps_and_the_others_do_not(machines: Machines) -> None:
    def work() -> tuple[float, float]:
        clock = ports.clock()
        before = clock.wall(), clock.monotonic()
        machines.hosts["alpha"].skew = -500
        return clock.wall() - before[0], clock.monotonic() - before[1]

    assert machines.do(work) == (-500.0, 0.0)
    assert machines.hosts["beta"].wall() >= 1000


def test_coroutines_ask_over_the_same_network(machines: Machines) -> None:
    serve(machines)
    process = machines.process("client.alpha")

    async def call() -> tuple[int, bytes]:
        async with wire().caller(5) as caller:
            return await caller.call("POST", "http://server.beta/", b"y", 100)

    async def main() -> Any:
        return await process.spawn(call())

    assert machines.play(main()) == (200, b"y")


def test_two_runs_of_one_seed_are_one(tmp_path: Path) -> None:
    times = set()
    for number in range(2):
        machines = Machines(tmp_path / str(number), 7)
        serve(machines)
        machines.network.loss = 0.5

        def work() -> None:
            for _ in range(5):
                with suppress(ConnectionResetError):
                    post(seconds=30)

        machines.do(work)
        times.add(machines.loop.time())
    assert len(times) == 1
