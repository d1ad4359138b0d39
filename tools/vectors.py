"""Make the vectors of the second half: writes vectors/, or compares it under `--check`, and tidies under `--prune`.

The nouns below are written by nobody's hand: what they show is in tools/scenes/. All is deterministic, so that the same
core gives the same bytes. Golden logs of rules that are published are only read: see `scenes.golden.FROZEN`.
"""

import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "vectors"
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from scenes import (  # noqa: E402
    brake,
    bundles,
    decisions,
    golden,
    golden_texts,
    keychanges,
    kinds,
    raw,
    refusals,
    reopening,
    shown,
    succession,
    verdicts,
)
from scenes.made import Made  # noqa: E402

LOGS = (kinds, refusals, brake, raw, succession, keychanges, reopening, golden_texts)  # for `shown` and `golden`
NOUNS = ("log", "envelope", "pledge", "permit", "sample", "verdict", "bundle")


def made() -> Iterator[Made]:
    """Every vector that is made here."""
    assert LOGS
    for module in (shown, raw, decisions, verdicts, bundles, golden):
        yield from module.made()


def text(vector: Made) -> str:
    """The file of a vector: readable, and one line for each entry of a log."""
    fields: dict[str, Any] = {
        "about": vector.about,
        "expect": vector.expect,
        "source": "derived",
        "spec": vector.spec,
        "input": vector.input,
    }
    if vector.output:
        fields["output"] = vector.output
    return _lines(fields, 0) + "\n"


def _lines(value: Any, depth: int) -> str:
    if not isinstance(value, Mapping | list) or not value or depth > 2 or (depth == 2 and isinstance(value, Mapping)):
        return json.dumps(value)
    inside, outside = "  " * (depth + 1), "  " * depth
    if isinstance(value, Mapping):
        parts = [f"{inside}{json.dumps(k)}: {_lines(v, depth + 1)}" for k, v in value.items()]
        return "{\n" + ",\n".join(parts) + f"\n{outside}}}"
    return "[\n" + ",\n".join(inside + _lines(v, depth + 1) for v in value) + f"\n{outside}]"


def files() -> dict[Path, str]:
    """Path → content of every file that is made here.

    Raises:
        AssertionError: a name is given twice, or a scene does not show what it says.
    """
    found: dict[Path, str] = {}
    for vector in made():
        path = FOLDER / vector.noun / f"{vector.name}.json"
        assert path not in found, f"{path} is made twice"
        found[path] = text(vector)
    return found


def owned() -> set[Path]:
    """Every file in the folders that are made here."""
    folders = [FOLDER / noun for noun in NOUNS]
    if golden.RULES not in golden.FROZEN:
        folders.append(FOLDER / "golden" / str(golden.RULES))
    return {path for folder in folders for path in folder.glob("*")}


def stale() -> list[str]:
    """Files that are not what is made here, and files that are not made here at all."""
    want = files()
    wrong = {p for p, content in want.items() if not p.exists() or p.read_text() != content} | (owned() - want.keys())
    return sorted(str(p.relative_to(FOLDER)) for p in wrong)


def main() -> int:
    if "--check" in sys.argv[1:]:
        wrong = stale()
        if wrong:
            print(f"error: vectors are out of date: {', '.join(wrong)}\nhint: python tools/vectors.py", file=sys.stderr)
        return 1 if wrong else 0
    want = files()
    for path, content in want.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    print(f"{len(want)} vectors")
    strays = sorted(owned() - want.keys())
    if "--prune" in sys.argv[1:]:
        for path in strays:
            path.unlink()
    elif strays:  # perhaps somebody wrote them by hand
        names = ", ".join(str(p.relative_to(FOLDER)) for p in strays)
        print(
            f"error: no scene makes {names}\nhint: look at them, then: python tools/vectors.py --prune", file=sys.stderr
        )
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
