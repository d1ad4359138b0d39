"""Several ranks: each keeps its own part, one leaf binds all, and as many processes make it again."""

import os

os.environ.update(OMP_NUM_THREADS="1", OMP_WAIT_POLICY="passive")

from pathlib import Path

import pytest
import torch
from filelock import FileLock

from brakeline.core.errors import Misuse
from brakeline.core.transcript import NONE, Leaf
from brakeline.training.cell import Cell
from brakeline.training.checkpoint import checkpoint_steps
from brakeline.training.digest import Snapshot, snapshot
from brakeline.training.moving import cut_to_checkpoint
from brakeline.training.ranks import Together, folder, joint, meet, rank, tell, whole
from brakeline.training.recipe import Recipe
from brakeline.training.recorder import read_leaves
from brakeline.training.rehearsal import Rehearsal, rehearse
from brakeline.training.replay import Rerun, conclude

SOURCE = """
import torch
import torch.distributed as dist
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel


class Data:
    def __init__(self):
        self.at = 0

    def next(self):
        self.at += 1
        return torch.randn(4, 8, generator=torch.Generator().manual_seed(100 * self.at + dist.get_rank()))

    def state_dict(self):
        return {"at": self.at}

    def load_state_dict(self, state):
        self.at = state["at"]


def dataset_root(config):
    return "da" * 32


def flop_per_step(config):
    return 10**4


def train(config, gate, recorder):
    model, data = torch.nn.Sequential(torch.nn.Linear(8, 6), torch.nn.Dropout(0.1), torch.nn.Linear(6, 1)), Data()
    if config["how"] == "shards":
        fully_shard(model)
    else:
        model = DistributedDataParallel(model, find_unused_parameters=config["how"] == "steady")
    torch.manual_seed(dist.get_rank())  # each rank draws for itself
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    step = recorder.open(model=model, optimizer=optimizer, data=data)
    while step < config["steps"] and gate.may_step():
        x = data.next()
        if config["how"] == "alone" and dist.get_rank() == 1 and step == 2:
            raise ValueError("this rank has a bad day")
        loss = model(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        step += 1
        recorder.step(loss=loss, batch=x)
    recorder.stop("ended" if step == config["steps"] else "stopped")
"""


def rehearsed(tmp_path: Path, ranks: int, how: str) -> Rehearsal:
    (tmp_path / "loop.py").write_text(SOURCE)
    return rehearse(Recipe("run", tmp_path / "loop.py", 6, {"how": how}, ranks=ranks), threads=1)


@pytest.mark.parametrize(("ranks", "how"), [(2, "steady"), (3, "shards")])
def test_a_run_of_several_ranks_is_stopped_killed_and_replayed_exactly(tmp_path: Path, ranks: int, how: str) -> None:
    it = rehearsed(tmp_path, ranks, how)
    assert it.causes == ()


def test_buckets_that_are_sorted_anew_are_named(tmp_path: Path) -> None:
    (cause,) = rehearsed(tmp_path, 3, "plain").causes
    assert "has another state" in cause.text
    assert "find_unused_parameters=True" in cause.hint


@pytest.mark.parametrize("how", ["steady", "shards"])
def test_a_cell_makes_steps_of_other_ranks_than_the_recipe_says(tmp_path: Path, how: str) -> None:
    (tmp_path / "loop.py").write_text(SOURCE)
    it = Recipe("run", tmp_path / "loop.py", 6, {"how": how}, ranks=2)
    with Cell(it, it.digest, (), threads=1) as cell:
        cell.facts()
        end = cell.run(bytes(32), 0, 2, snapshot({}, lambda *_: True), 2).end
        for count in (1, 3, 1):  # one rank alone is read as one, and gives to one as to many
            assert end is not None
            made = cell.run(bytes(32), 2, 2, end, count)
            assert len(made.leaves) == 2
            end = made.end
        assert end is not None
        assert "model" in end.tree


def test_a_rank_that_fails_takes_the_others_with_it(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="ValueError: this rank has a bad day"):
        rehearsed(tmp_path, 2, "alone").check()


def test_alone_there_is_nobody_to_meet() -> None:
    assert rank() == 0
    assert meet(b"x") == [b"x"]
    assert tell({"a": 1}) == {"a": 1}


def test_the_state_of_all_binds_each_in_its_place() -> None:
    one, two = (snapshot({"model": torch.full((3,), float(n)), "rng": n}, lambda *_: True) for n in (1, 2))
    assert joint([one.digest()]) == one.digest()
    assert len({Together((one, two)).digest(), Together((two, one)).digest(), one.digest(), joint([])}) == 4
    again = whole(Together((one, two)).tree)
    assert isinstance(again, Together)
    assert again.digest() == Together((one, two)).digest()
    assert whole(one.tree).digest() == one.digest()


@pytest.mark.parametrize("tree", [{"0:model": 1}, {"1:model": 1, "2:model": 1}, {"0:model": 1, "2:model": 1}])
def test_a_state_that_lacks_a_rank_is_none(tree: dict[str, int]) -> None:
    with pytest.raises(Misuse):
        whole(tree)


def test_each_rank_has_a_folder_of_its_own() -> None:
    here = Path("run")
    assert [folder(here, rank) for rank in (0, 1, 12)] == [here, here / "ranks" / "0001", here / "ranks" / "0012"]


def recorded(where: Path, steps: int, checkpoint: int) -> None:
    (where / "checkpoints").mkdir(parents=True)
    (where / "checkpoints" / f"step-{checkpoint:08d}.safetensors").touch()
    leaves = (Leaf(step, bytes(32), NONE, NONE, 0.0, step).encode() for step in range(steps + 1))
    (where / "leaves.bin").write_bytes(b"".join(leaves))


def test_all_ranks_are_cut_to_the_last_checkpoint_that_all_have(tmp_path: Path) -> None:
    recorded(tmp_path, 12, 10)
    recorded(folder(tmp_path, 1), 11, 5)  # killed between two checkpoints of one step
    assert cut_to_checkpoint(tmp_path, 2) == 5
    assert [len(read_leaves(folder(tmp_path, rank))) for rank in range(2)] == [6, 6]


def test_a_checkpoint_of_steps_that_are_made_anew_does_not_stay(tmp_path: Path) -> None:
    """Else that of other ranks would stand for theirs: nobody writes one that is there."""
    recorded(tmp_path, 12, 10)
    recorded(folder(tmp_path, 1), 11, 5)
    recorded(folder(tmp_path, 2), 9, 9)  # of a rank that there was once, and may be again
    cut_to_checkpoint(tmp_path, 2)
    assert [checkpoint_steps(folder(tmp_path, rank)) for rank in range(3)] == [[], [5], []]


def test_what_another_process_records_is_not_cut(tmp_path: Path) -> None:
    recorded(tmp_path, 12, 10)
    with FileLock(tmp_path / ".lock"), pytest.raises(Misuse, match="another process is recording"):
        cut_to_checkpoint(tmp_path)
    assert len(read_leaves(tmp_path)) == 13


def test_a_torn_leaf_is_no_concern_of_those_before(tmp_path: Path) -> None:
    recorded(tmp_path, 12, 10)
    with (tmp_path / "leaves.bin").open("ab") as f:
        f.write(b"torn")
    assert len(read_leaves(tmp_path, 10)) == 11


def weights(*of: list[float]) -> Snapshot | Together:
    """The state of as many ranks, each with these weights."""
    parts = [snapshot({"model": {"state": {"w": torch.tensor(w)}, "transient": {}}}, lambda *_: True) for w in of]
    return parts[0] if len(parts) == 1 else Together(tuple(parts))


ONE, TWO, HALF = [1.0, 1.0], [2.0, 2.0], [1.0]


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        (weights(ONE, ONE), weights(TWO, TWO, TWO), 0.0),  # every rank has the whole
        (weights(ONE, ONE, ONE), weights(TWO), 0.0),
        (weights(ONE), weights(TWO, TWO), 0.0),
        (weights(HALF, HALF), weights(ONE), None),  # they were shards
        (weights(ONE), weights(HALF, HALF), None),
    ],
)
def test_an_update_across_a_move_has_a_size_where_no_shard_was_cut_anew(
    before: Snapshot | Together, after: Snapshot | Together, error: float | None
) -> None:
    """An inspector on another machine goes by it: without one he cannot pass the run."""
    leaves = tuple(Leaf(step, bytes(32), NONE, NONE, 0.0, step) for step in range(2))
    found = conclude(leaves, before, after, Rerun(bytes(32), leaves[1:], after), "")
    assert (found.update_error, found.rho) == (error, None if error is None else 1.0)
