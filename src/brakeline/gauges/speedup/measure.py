"""Interleaved pairs of baseline and candidate: run them, judge the weights, and say how many times faster it is."""

import platform
import re
import secrets
import statistics
from collections.abc import Callable, Sequence
from math import exp, log, sqrt
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np
from scipy.stats import t as student

from brakeline.core.errors import Misuse, Reason, Refused, Unavailable
from brakeline.core.measurement import Measurement
from brakeline.gauges.speedup.arena import Run, digest_folder, frozen, run
from brakeline.gauges.speedup.job import WORK, Job, Work, make_job, pair_nonce
from brakeline.gauges.speedup.plan import Pair, Record, Timed, known_seed
from brakeline.gauges.speedup.reference import reference
from brakeline.gauges.speedup.weights import deviations, held_out_loss, output_size, read_weights

VERSION: Final = 1
PAIRS: Final = 5
HUMAN: Final = 4.0  # what an expert reaches in 4 to 8 hours, as published: the threshold, and the unit of h
# Honest 32-bit arithmetic stays below 6e-5, and one step left out of a hundred is above 1e-2 (bench/speedup.py).
DEVIATION_MOST: Final = 1e-3
# In nats. Over seeds, the baseline's own loss at the end has a standard deviation of 0.016 to 0.05 (bench/speedup.py).
LOSS_MOST: Final = 0.01
LIMIT: Final = 600.0  # seconds that one run may take
_MORE_THAN_A_CORE: Final = (1.1, 0.2)  # factor and seconds by which the two clocks may differ

Runner = Callable[[Path, Job, Path], Run]  # of a candidate's folder, on a job, without a sight of the record's folder
Progress = Callable[[int, int], None]  # runs made, runs in all


def in_sandbox(folder: Path, job: Job, out: Path) -> Run:
    """The runner that counts."""
    return run(folder, job.data, output_size(job.work), limit=LIMIT, hidden=(out,))


def measure(
    candidate: Path,
    out: Path,
    *,
    subject: str,
    seed: str = "",
    pairs: int = PAIRS,
    work: Work = WORK,
    runner: Runner = in_sandbox,
    progress: Progress = lambda done, total: None,
) -> Measurement:
    """Measure `candidate` against the baseline in `pairs` pairs of runs; all that is done is recorded in `out`.

    `seed` is 32 bytes in hex; without one it is that of the measurement begun in `out`, or else a new one.

    Raises:
        Refused: a run of the candidate is not the baseline's training, or did not end well; or more pairs were given
            up than planned. Both stand in the record: to measure again in `out` raises it again.
        Misuse: no such candidate, or `out` holds another measurement. Malformed: the record, or a candidate that is
            more than plain files. Unavailable: no sandbox on this machine, or the disk.
    """
    if pairs < 2:
        raise Misuse(f"{pairs} pairs give no interval", hint="take two at least")
    seed = seed or known_seed(out) or secrets.token_hex(32)
    if not re.fullmatch("[0-9a-f]{64}", seed):
        raise Misuse(f"not a seed: {seed[:70]!r}", hint="32 bytes, as 64 digits of 0-9a-f")
    with reference(0) as baseline, frozen(candidate) as mine:
        digest = digest_folder(mine)
        inputs = {
            "seed": seed,
            "pairs": pairs,
            "work": work._asdict(),
            "baseline": digest_folder(baseline).hex(),
            "candidate": digest.hex(),
            "machine": machine(),
        }
        record = Record(out, inputs)
        for i in range(pairs):
            progress(2 * i, 2 * pairs)
            if i not in record.pairs:
                _check_abandoned(record, pairs)
                record.start(i)
                job = make_job(work, pair_nonce(bytes.fromhex(seed), digest, i))
                turns = [baseline, mine] if i % 2 == 0 else [mine, baseline]
                runs = {}
                for folder in turns:
                    runs[folder] = runner(folder, job, out)
                    progress(2 * i + len(runs), 2 * pairs)
                record.finish(judge(i, job, runs[baseline], runs[mine]))
            if record.pairs[i].refused:
                raise Refused(
                    Reason.PROHIBITED,
                    f"{subject} has no speed: in pair {i}, {record.pairs[i].refused}",
                    hint=f"all runs are in {out}; a changed candidate is measured in another folder",
                )
    return conclude(subject, inputs, [record.pairs[i] for i in range(pairs)], record.abandoned)


def _check_abandoned(record: Record, pairs: int) -> None:
    if record.abandoned > pairs:
        raise Refused(
            Reason.PROHIBITED,
            f"{record.abandoned} pairs were begun and given up; {pairs} were planned",
            hint="runs are not picked: measure in another folder, and let it run to its end",
        )


def judge(pair: int, job: Job, base: Run, candidate: Run) -> Pair:
    """Whether the candidate's run was the baseline's training: a pure function of the two runs.

    Raises:
        Unavailable: the baseline itself fails on this machine.
    """
    if base.output is None:
        raise Unavailable(f"the baseline does not run here: {base.problem}")
    weights = read_weights(job.work, base.output)
    losses = _losses(job, weights)
    problem, deviation = candidate.problem, None
    other: tuple[float, ...] = ()
    if candidate.output is not None:
        theirs = read_weights(job.work, candidate.output)
        if not np.isfinite(theirs).all():
            problem = "a weight is not finite"
        else:
            other = _losses(job, theirs)
            apart = deviations(weights, theirs)
            deviation = float(apart.max())
            problem = _objection(job, apart, losses, other) or _too_much(candidate)
    return Pair(
        pair=pair,
        started=False,
        base=Timed(wall=base.wall, cpu=base.cpu, losses=losses),
        candidate=Timed(wall=candidate.wall, cpu=candidate.cpu, losses=other),
        deviation=deviation,
        refused=problem,
    )


def _losses(job: Job, weights: np.ndarray) -> tuple[float, ...]:
    """Of each checkpoint on the held-out text; 1e300 where weights are so large that there is none."""
    with np.errstate(all="ignore"):
        found = [held_out_loss(job.work, each, job.held_out) for each in weights]
    return tuple(x if np.isfinite(x) else 1e300 for x in found)


def _objection(job: Job, apart: np.ndarray, losses: tuple[float, ...], other: tuple[float, ...]) -> str:
    for step, distance, ours, theirs in zip(job.report, apart, losses, other, strict=True):
        if not distance <= DEVIATION_MOST:
            return (
                f"the weights of step {step} are not the baseline's: they deviate by {distance:.2g}, "
                f"and rounding by less than {DEVIATION_MOST:g} (loss {theirs:.3f}, baseline {ours:.3f})"
            )
        if not abs(theirs - ours) <= LOSS_MOST:
            return f"the loss at step {step} is {theirs:.4f}, and the baseline's {ours:.4f}"
    return ""


def _too_much(candidate: Run) -> str:
    factor, slack = _MORE_THAN_A_CORE
    if candidate.cpu > factor * candidate.wall + slack:
        return f"it took {candidate.cpu:.2f} s of processor in {candidate.wall:.2f} s: more than one core has"
    return ""


def conclude(subject: str, inputs: dict[str, Any], pairs: Sequence[Pair], abandoned: int) -> Measurement:
    """s = exp(mean ln(t_base / t_candidate)) over all pairs, with Student's 95 % interval of the mean log ratio."""
    ratios = [log(_seconds(p.base) / _seconds(p.candidate)) for p in pairs]
    mean = statistics.fmean(ratios)
    half = float(student.ppf(0.975, len(ratios) - 1)) * statistics.stdev(ratios) / sqrt(len(ratios))
    lower, upper = mean - half, mean + half
    return Measurement(
        gauge="speedup",
        version=VERSION,
        subject=subject,
        inputs=inputs,
        unit="ratio",
        value=exp(mean),
        lower=exp(lower),
        upper=exp(upper),
        threshold=HUMAN,
        complete=True,
        alarms=(),
        details={
            "h": mean / log(HUMAN),
            "h_lower": lower / log(HUMAN),
            "h_upper": upper / log(HUMAN),
            "pairs": [msgspec.to_builtins(pair) for pair in pairs],
            "abandoned": abandoned,
            "deviation_most": DEVIATION_MOST,
            "loss_most": LOSS_MOST,
        },
        logs=(),
    )


def _seconds(timed: Timed | None) -> float:
    """What a run took: on the clock, or of processor where that is more."""
    assert timed is not None
    return max(timed.wall, timed.cpu)


def machine() -> dict[str, str]:
    """What decides the ratio besides the two programs: processor, Python and numpy."""
    try:
        found = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    except OSError:
        found = None
    cpu = found[1] if found else platform.processor() or platform.machine()
    return {"cpu": cpu, "python": platform.python_version(), "numpy": np.__version__}
