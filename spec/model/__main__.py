"""The small models of succession: `python spec/model`, or with one rule broken: `python spec/model --break lapse`."""

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import brake
import handover
import keys
import reopen
import takeover
from explore import Found


class Case(NamedTuple):
    """One run: which model and rule, where, and what is expected."""

    model: str
    rule: str
    where: str
    run: Callable[..., Found[Any]]


def cases(rule: str, *, deep: bool) -> Iterator[Case]:
    """Every run of the rule in the models that know it. `deep` takes minutes."""
    if rule in handover.RULES:
        for world in handover.worlds():
            depth = (5 if deep else 4) - (len(world.sets["T"]) > 4)
            model = handover.Model(world, rule, depth)
            yield Case("handover", rule, f"{world.name}, {depth} entries", model.divide)
        world = handover.worlds()[0]
        depth = 4 if deep else 3
        run = handover.Model(world, rule, depth).run
        yield Case("handover", rule, f"{world.name}, {depth} entries, each state", run)
    if rule in brake.RULES:
        for scene in ("all", "permits", "lift") if deep or rule != "ours" else ("permits",):
            yield Case("brake", rule, scene, brake.Model(rule, scene).run)
    if rule in keys.RULES:
        yield Case("keys", rule, "one key stolen", keys.Model(rule).run)
    if rule in takeover.RULES:
        for liar in (None, 4):
            depth = 3 if deep or rule != "ours" else 2
            where = f"{'one lies' if liar else 'none lies'}, {depth} entries"
            yield Case("takeover", rule, where, takeover.Model(rule, depth, liar).run)
    if rule in reopen.RULES:
        for world in (handover.worlds()[0], handover.worlds()[4]):
            depth = 5 if rule != "ours" else (4 if deep else 3) - (world.f > 0)
            where = f"{world.name}, {depth} entries, each state"
            yield Case("reopen", rule, where, reopen.Reopening(world, rule, depth).run)
        for world in handover.worlds()[:2]:
            depth = 5 if deep else 3
            yield Case("reopen", rule, f"{world.name}, {depth} entries", reopen.Reopening(world, rule, depth).along)


NAIVE = tuple(r for m in (handover, brake, keys, takeover, reopen) for r in m.RULES if r != "ours")


def sentence(case: Case) -> str:
    modules = {"handover": handover, "brake": brake, "keys": keys, "takeover": takeover, "reopen": reopen}
    text: str = modules[case.model].RULES[case.rule]
    return text


def main() -> int:
    parser = argparse.ArgumentParser(prog="python spec/model", description=__doc__)
    parser.add_argument("--break", dest="broken", choices=NAIVE, help="put a naive rule in the place of ours")
    parser.add_argument("--all", action="store_true", help="ours, and every naive rule")
    parser.add_argument("--deep", action="store_true", help="more entries; takes minutes")
    chosen = parser.parse_args()
    rules = [chosen.broken] if chosen.broken else ["ours", *NAIVE] if chosen.all else ["ours"]
    right = True
    for rule in rules:
        faults = 0
        for case in cases(rule, deep=chosen.deep):
            began = time.process_time()
            found = case.run(stop=rule != "ours")
            faults += len(found.wrong)
            what = "; ".join(found.wrong) or ("cut off" if found.cut else "none")
            spent = time.process_time() - began
            line = f"{case.model:9} {rule:12} {case.where:46} {found.states:9,} states {spent:6.1f} s"
            print(f"{line}  {what}", flush=True)
            for text, state in found.wrong.items():
                print(f"          {text}: {state}"[:500])
            if rule != "ours" and found.wrong:
                break
        if rule != "ours":
            print(f"          the rule: {sentence(case)}")
        right &= (faults == 0) == (rule == "ours")
    if not right:
        print("error: a naive rule shows no fault, or ours does", file=sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
