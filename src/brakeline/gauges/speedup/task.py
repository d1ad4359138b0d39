"""The gauge as an Inspect task: any model or agent that Inspect drives makes the candidate; the same rule scores it.

The agent gets the baseline, bash and a text editor in a sandbox of Inspect's. When it is done, the folder is taken
out of there and measured by the verifier's own processes, on text drawn after that. Inspect's `local` sandbox isolates
nothing: an agent in it can change the verifier. Give it `--sandbox docker:FILE`, or a machine of its own.
"""

import asyncio
import io
import shutil
import tarfile
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Final, Literal

import msgspec
from inspect_ai import Task, task
from inspect_ai import eval as run_eval
from inspect_ai.agent import AgentPrompt, react
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalLog, read_eval_log
from inspect_ai.model import Model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import TaskState
from inspect_ai.tool import bash, text_editor
from inspect_ai.util import sandbox

from brakeline.core.encoding import convert, sha256
from brakeline.core.errors import Malformed, Misuse, Reason, Refused, Unavailable
from brakeline.core.measurement import Measurement
from brakeline.gauges.speedup.job import WORK, Work
from brakeline.gauges.speedup.measure import PAIRS, Runner, in_sandbox, measure
from brakeline.gauges.speedup.reference import baseline_files

FOLDER: Final = "candidate"
_MESSAGES: Final = 200  # of an agent, unless the caller says otherwise
_MOST: Final = 1 << 26  # bytes of a candidate
Display = Literal["rich", "none"]

_ASKED: Final = """\
The folder `candidate` holds a small program that trains a language model on the CPU. Make it as fast as you can.
`candidate/CONTRACT.md` says what it must go on doing. Read that first.

Afterwards the folder is taken as it is. Its `train.py` is run several times, in turns with the original, on texts and
seeds that you have not seen, each time in a fresh process on one core, without network and without anything else that
you may have left here. What counts is the mean ratio of the whole processes' times. A single run whose weights are not
the original's, up to rounding, means that the folder has no score.
"""


@task(name="speedup")
def speedup_task(pairs: int = PAIRS, out: str = "", sandbox: str = "local") -> Task:
    """Make a training program faster. The record of the runs goes to the folder `out`, or only to the log without."""
    return build_task(pairs, out, WORK, in_sandbox, sandbox)


def build_task(pairs: int, out: str, work: Work, runner: Runner, sandbox: str = "local") -> Task:
    """`speedup_task`, of other sizes or with another runner."""
    return Task(
        dataset=[Sample(input=_ASKED, files={f"{FOLDER}/{name}": text for name, text in baseline_files().items()})],
        solver=react(prompt=AgentPrompt(handoff_prompt=None), tools=[bash(timeout=600), text_editor(timeout=600)]),
        scorer=speedup_scorer(
            lambda folder, room, subject: measure(folder, room, subject=subject, pairs=pairs, work=work, runner=runner),
            out,
        ),
        sandbox=sandbox,
        message_limit=_MESSAGES,
    )


@scorer(metrics=[mean()])
def speedup_scorer(measured: Callable[[Path, Path, str], Measurement], out: str) -> Scorer:
    """s of the folder that the agent leaves; 0 for one that has no speed, with the reason."""

    async def score(state: TaskState, target: Target) -> Score:
        with ExitStack() as stack:
            room = Path(out or stack.enter_context(tempfile.TemporaryDirectory(prefix="brakeline-speedup-")))
            candidate = room / FOLDER
            try:
                unpack(await _packed(), candidate)
                m = await asyncio.to_thread(measured, candidate, room, str(state.model))
            except (Refused, Malformed, Misuse) as e:
                return Score(value=0.0, explanation=str(e), metadata={"refused": str(e)})
        text = f"{m.value:.3g} times faster, 95 % bounds {m.lower:.3g} to {m.upper:.3g}"
        return Score(value=m.value, explanation=text, metadata={"measurement": msgspec.to_builtins(m)})

    return score


async def _packed() -> bytes:
    """The agent's folder as a tar archive.

    Raises:
        Malformed: it is not there, or too large to be fetched.
    """
    done = await sandbox().exec(["tar", "-cf", f"{FOLDER}.tar", FOLDER])
    if not done.success:
        raise Malformed(f"the agent left no folder {FOLDER}: {done.stderr[:300].strip()}")
    try:
        return await sandbox().read_file(f"{FOLDER}.tar", text=False)
    except (OSError, ValueError) as e:
        raise Malformed(f"the agent's folder cannot be fetched: {e}") from e


def unpack(data: bytes, folder: Path) -> None:
    """Write what lies in the archive under `candidate` to `folder`; only plain files and folders come out.

    Raises:
        Malformed: anything else in it, or more than 64 MiB. Misuse: `folder` is there already.
    """
    if folder.exists():
        raise Misuse(f"{folder} exists already", hint="a candidate is measured in a folder of its own")
    try:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            members = archive.getmembers()
            if not all(m.isreg() or m.isdir() for m in members) or sum(m.size for m in members) > _MOST:
                raise Malformed("the agent's folder holds links or devices, or more than 64 MiB")
            # Aside, since the agent chose the names: nothing of its own may land beside the record of the runs.
            with tempfile.TemporaryDirectory(prefix="brakeline-speedup-") as aside:
                archive.extractall(aside, members, filter="data")
                shutil.copytree(Path(aside) / FOLDER, folder)
    except (tarfile.TarError, OSError) as e:
        raise Malformed(f"the agent's folder cannot be read: {e}") from e


def measure_agent(
    model: str | Model,
    out: Path,
    *,
    pairs: int = PAIRS,
    work: Work = WORK,
    runner: Runner = in_sandbox,
    display: Display | None = None,
) -> Measurement:
    """Let `model` make a candidate under Inspect, or take the log in `out` where it has done so; returns its score.

    The measurement names the SHA-256 of the log it comes from.

    Raises:
        Refused: what it made has no speed. Unavailable: the evaluation failed. Malformed: the log says nothing.
    """
    path = _finished(out / "logs")
    if path is None:
        asked = build_task(pairs, str(out), work, runner)
        (log,) = run_eval(asked, model=model, log_dir=str(out / "logs"), log_format="eval", display=display)
        if log.status != "success":
            raise Unavailable(f"the evaluation ended with {log.status}: {log.error.message if log.error else ''}")
        path = Path(log.location)
    return measured(read_eval_log(str(path)), path.read_bytes())


def _finished(folder: Path) -> Path | None:
    for path in sorted(folder.glob("*.eval")):
        if read_eval_log(str(path), header_only=True).status == "success":
            return path
    return None


def measured(log: EvalLog, data: bytes) -> Measurement:
    """The measurement in a log whose file is `data`.

    Raises:
        Refused: the candidate has no speed. Malformed: the log is not of this task.
    """
    scores = [score for sample in log.samples or [] for score in (sample.scores or {}).values()]
    if len(scores) != 1 or scores[0].metadata is None:
        raise Malformed("the log does not hold one sample with one score of this task")
    found = scores[0].metadata
    if "refused" in found:
        raise Refused(Reason.PROHIBITED, str(found["refused"]), hint="the log has all that the agent did")
    measurement = convert(found.get("measurement"), Measurement)
    return msgspec.structs.replace(measurement, logs=(sha256(data).hex(),))
