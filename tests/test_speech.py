"""With which key a home speaks: what the log has in force, after a change, a crash in the middle, and in a copy."""

import shutil
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from brakeline.core.errors import Misuse
from brakeline.core.statement import open_envelope
from brakeline.core.succession import KeyChange
from brakeline.core.treaty.parties import digest_of
from brakeline.node.home import Home, save_key
from brakeline.node.memory import RESTORED
from brakeline.node.outbox import Outbox
from brakeline.node.speech import PermitKey, compared, newest, promoted, settled
from succession import next_text, succeeding, turned
from test_node import WorldLog
from world import World, key, next_digest

BODY = {"motion": "trip", "epoch": 0, "reason": "x"}
HEAD = {"about": -1, "text": "we move"}


@pytest.fixture
def world() -> World:
    return succeeding()


def home_of(folder: Path, party: str = "alpha") -> Home:
    for purpose in ("statement", "signer"):
        save_key(folder / "keys" / f"{purpose}.pem", key(party, purpose), None)
        save_key(folder / "keys" / f"{purpose}.next.pem", key(party, f"{purpose} 1"), None)
    (folder / "party").write_text(f"{party}\n")
    return Home(folder)


def box_of(home: Home, world: World) -> Outbox:
    return Outbox(home.path, world.treaty, home.name, home.key("statement"), lambda: world.now)


def change(world: World, home: Home) -> bytes:
    """What says that the home goes on to its next key; not logged yet."""
    after = home.new_after("statement")
    new = home.key("statement", "next")
    box = box_of(home, world).with_key(new)
    return box.write("key", KeyChange(purpose="statement", key=new.public.text, next=digest_of(after.public)))


def test_what_waits_is_signed_anew_with_the_key_in_force(tmp_path: Path, world: World) -> None:
    home, log = home_of(tmp_path), WorldLog(world)
    box = box_of(home, world)
    after = newest(world.state, box, "brake").seq
    vote, notice = box.write("vote", BODY, after=after), box.write("notice", HEAD)
    world.append(change(world, home))
    again = settled(home, box, world.state)
    assert again.key == key("alpha", "statement 1").public
    assert home.key("statement").public == again.key
    assert [open_envelope(data).kind for _, _, data in again.pending()] == ["key", "vote", "notice"]
    assert box.pending() == []
    sent = again.flush(log.add_verified, lambda lane: newest(world.state, again, lane))
    assert len(sent) == 3, "the log has the change already, and says where"
    assert world.voters("trip") == {"alpha"}
    for data in (vote, notice):
        assert again.index_of(data) is not None, "whoever waits for the old bytes finds where the new ones are"
    assert world.state.members.equivocators == frozenset()
    assert settled(home, again, world.state) is again
    world.check()


def test_nothing_is_lost_where_a_crash_comes_between_log_and_home(tmp_path: Path, world: World) -> None:
    home = home_of(tmp_path)
    said = change(world, home)
    assert change(world, home) != said  # a second number: the outbox of the next key remembers the first
    world.append(said)
    # The process ends here; the next one opens the home with the old key in its place.
    fresh = Home(tmp_path)
    assert fresh.key("statement").public == key("alpha").public
    box = settled(fresh, box_of(fresh, world), world.state)
    assert box.key == key("alpha", "statement 1").public
    assert fresh.holds("statement", "next")
    assert digest_of(fresh.key("statement", "next").public) == world.state.keyring.of["alpha"].statement.next
    assert not fresh.holds("statement", "after")


def test_a_crash_between_the_two_files_is_finished(tmp_path: Path, world: World) -> None:
    home = home_of(tmp_path)
    world.append(change(world, home))
    after = home.key("statement", "after").public
    (tmp_path / "keys" / "statement.next.pem").rename(tmp_path / "keys" / "statement.pem")
    (tmp_path / "keys" / "past").write_text(f"statement {key('alpha').public.text}\n")
    settled(home, box_of(home, world), world.state)
    home.tidy("statement")
    assert home.key("statement", "next").public == after


def test_processes_that_go_on_to_a_key_at_a_time_destroy_none(tmp_path: Path, world: World) -> None:
    """The trainer, the signer and a command of one home all see the change in the log at once."""
    home = home_of(tmp_path)
    world.append(change(world, home))
    held, after = (home.key("statement", which).public for which in ("next", "after"))
    with ThreadPoolExecutor(8) as pool:
        went = list(pool.map(lambda _: Home(tmp_path).promote("statement", held.text), range(64)))
    assert went.count(True) == 1
    assert home.key("statement").public == held
    assert home.key("statement", "next").public == after


def test_a_copy_of_before_a_change_says_nothing(tmp_path: Path, world: World) -> None:
    home = home_of(tmp_path / "home")
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    copy = Home(tmp_path / "copy")
    box = box_of(copy, world)
    world.append(change(world, home))
    settled(home, box_of(home, world), world.state)
    settled(copy, box, world.state)  # the copy has the next key, too: it goes on to it once
    assert copy.key("statement").public == home.key("statement").public
    (tmp_path / "keys").mkdir()
    world.append(change(world, home))  # to a key that the copy never had
    with pytest.raises(Misuse, match="not in this home"):
        settled(copy, box_of(copy, world), world.state)


def test_a_copy_of_before_a_change_sends_nothing_twice(tmp_path: Path, world: World) -> None:
    """What it said with the key of before, and was sent since, is not carried to the next key."""
    home, log = home_of(tmp_path / "home"), WorldLog(world, judging=True)
    with closing(box_of(home, world)) as box:
        said, waits = (box.write("notice", {"about": -1, "text": text}) for text in ("sent", "waits"))
    shutil.copytree(tmp_path / "home", tmp_path / "copy")
    log.add(said)
    world.append(change(world, home))
    (tmp_path / "copy" / RESTORED).touch()
    copy = Home(tmp_path / "copy")
    box = settled(copy, box_of(copy, world), world.state)
    assert box.key == copy.key("statement").public
    assert box.pending() == []
    assert compared(box, log, world.state) == 1, "the change of keys itself"
    assert [open_envelope(data).statement.body["text"] for _, _, data in box.pending()] == ["waits"]
    assert (box.index_of(said), box.index_of(waits)) == (world.entries.index(said), None)


def test_a_home_whose_view_of_the_log_is_old_keeps_its_key(tmp_path: Path, world: World) -> None:
    home, before = home_of(tmp_path), world.state
    world.append(change(world, home))
    box = settled(home, box_of(home, world), world.state)
    assert settled(home, box, before) is box
    assert newest(before, box, "brake").seq == -1


def test_what_is_said_names_the_text_in_force(tmp_path: Path, world: World) -> None:
    home = home_of(tmp_path)
    box = box_of(home, world)
    turned(world, next_text(world.treaty, drop="gamma", join="epsilon"))
    box = settled(home, box, world.state)
    assert open_envelope(box.write("vote", BODY)).statement.treaty == world.treaty.digest != world.first.digest


def test_a_permit_signer_goes_on_without_a_restart(tmp_path: Path, world: World) -> None:
    home = home_of(tmp_path)
    permit_key = PermitKey(home)
    assert permit_key(world.state) is not None
    new = key("alpha", "signer 1")
    before = world.state
    world.log("alpha", "key", {"purpose": "signer", "key": new.public.text, "next": next_digest("alpha", "signer", 2)})
    found = permit_key(world.state)
    assert found is not None
    assert found.public == new.public
    assert promoted(home, "signer", world.state)
    assert not promoted(home, "signer", world.state)
    found = PermitKey(home)(world.state)
    assert found is not None
    assert found.public == new.public
    assert PermitKey(home)(before) is None, "the old key is gone, and signs nothing by an old view"


def test_an_outbox_of_before_keys_changed_is_taken_over(tmp_path: Path, world: World) -> None:
    home = home_of(tmp_path)
    with closing(box_of(home, world)) as box:
        vote = box.write("vote", BODY, after=7)
    with closing(sqlite3.connect(tmp_path / "outbox.sqlite")) as db:
        db.execute(
            "CREATE TABLE outgoing (lane TEXT, seq INTEGER, data BLOB NOT NULL, idx INTEGER, refused TEXT, "
            "instead INTEGER, reviewed INTEGER, PRIMARY KEY (lane, seq))"
        )
        db.execute("INSERT INTO outgoing SELECT lane, seq, data, idx, refused, instead, reviewed FROM said")
        db.execute("DROP TABLE said")
        db.commit()
    box = box_of(home, world)
    assert [data for _, _, data in box.pending()] == [vote]
    assert box.newest("brake") == 8
