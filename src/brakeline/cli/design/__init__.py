"""`brakeline design`: the race designer, one command a question."""

from typing import Final

from brakeline.cli.common import LazyGroup

QUESTIONS: Final = {
    "answer": "Which game is it, is a pause an equilibrium, and which treaty makes it one?",
    "fit": "Check a treaty against a scenario and propose its numbers.",
    "compare": "Two scenarios side by side.",
    "sensitivity": "Which beliefs and choices decide? Sobol indices.",
    "plot": "Draw maps, windows and timelines.",
    "simulate": "Check the closed forms with audits on the real core.",
    "parameters": "List what a scenario may set, with ranges and sources.",
}

command = LazyGroup(
    "brakeline.cli.design",
    QUESTIONS,
    name="design",
    help="Find out when a pause is an equilibrium, and which treaty makes it one.\n\n"
    "A scenario is a TOML file: parties, beliefs, and the choices of a treaty. Three come with the project, in "
    "examples/scenarios. Example: brakeline design answer examples/scenarios/verified.toml",
)
