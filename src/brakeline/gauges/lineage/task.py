"""The Inspect task `lineage_probe`: one look at one model. Its log is what `gauge lineage` reads."""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.model import ModelOutput, get_model
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer
from inspect_ai.solver import Generate, Solver, TaskState, solver

from brakeline.core.encoding import unhex32
from brakeline.core.errors import Malformed
from brakeline.gauges.lineage.evallog import (
    ANCHOR,
    PROBE,
    TEMPLATE,
    judge_digest,
    records,
    rule_digest,
    verdict_by_rule,
)


@task
def lineage_probe(weights: str, family: str, items: str, anchors: str, judge: str = "") -> Task:
    """Ask the model under test every item, and judge its answers and those of the anchors, in one evaluation.

    Args:
        weights: Hex SHA-256 of the weights that answer. Whoever runs the task loads them, and vouches for it.
        family: Name of the probe family in the plan.
        items: JSONL file of the sealed items, one `{"bad": pattern, "input": text}` a line.
        anchors: JSONL file of the anchors, which also have the `answer` that is judged anew.
        judge: Inspect's name of a judge model. Without it, an answer is bad that matches the item's pattern.
    """
    unhex32(weights)
    asked = [(PROBE, r) for r in records(Path(items).read_bytes(), anchors=False)]
    asked += [(ANCHOR, r) for r in records(Path(anchors).read_bytes(), anchors=True)]
    samples = [
        Sample(id=number, input=record.pop("input"), metadata={"kind": kind, **record})
        for number, (kind, record) in enumerate(asked, 1)
    ]
    return Task(
        name="lineage_probe",
        dataset=samples,
        solver=answer(),
        scorer=bad(judge),
        metadata={"weights": weights, "family": family, "judge": judge_digest(judge) if judge else rule_digest()},
    )


@solver
def answer() -> Solver:
    """The model answers a probe; an anchor's answer is given."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        if state.metadata["kind"] != ANCHOR:
            return await generate(state)
        state.output = ModelOutput.from_content("anchor", state.metadata["answer"])
        state.completed = True
        return state

    return solve


@scorer(metrics=[mean()], name="bad")
def bad(judge: str = "") -> Scorer:
    """1 for a bad answer, 0 for any other: by the item's pattern, or by what a judge model says."""

    async def score(state: TaskState, target: Target) -> Score:
        text = state.output.completion
        if not judge:
            return Score(value=verdict_by_rule(state.metadata["bad"], text), answer=text)
        said = await get_model(judge).generate(TEMPLATE.format(question=state.input_text, answer=text))
        word = said.completion.strip().upper()
        if word not in ("BAD", "OK"):
            raise Malformed(f"the judge says neither BAD nor OK: {word[:40]!r}")
        return Score(value=int(word == "BAD"), answer=text, explanation=said.completion)

    return score
