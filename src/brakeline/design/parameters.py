"""The parameters of the race-pause-brake model: one table, from which scenarios, docs and priors all come."""

from typing import Final, Literal, NamedTuple

Label = Literal["belief", "assumption", "measured", "choice"]


class Parameter(NamedTuple):
    """One row of the table.

    `name` is the key in a scenario, `symbol` the letter in the formulas. `low` and `high` are the allowed range and the
    uniform prior of a sensitivity analysis. `label` says where a value comes from: a *belief* that people contest, an
    *assumption* of the model, a thing *measured* on Brakeline itself, or a *choice* of whoever writes the treaty. A
    `per_party` parameter may be set for each party. `whole` ones are counts. A default of None
    means: as the parameter `same_as`, or as the measured inputs say.
    """

    name: str
    symbol: str
    unit: str
    default: float | None
    low: float
    high: float
    label: Label
    meaning: str
    source: str
    per_party: bool = False
    whole: bool = False
    same_as: str = ""


_P = Parameter

# fmt: off
TABLE: Final = (
    # The race
    _P("arrival_rate", "lam", "1/yr", .3, .05, 1, "belief",
       "how often the prize is reached when everybody races", "timeline surveys; vary it"),
    _P("leakage", "phi", "share", .3, 0, 1, "assumption",
       "speed that a pauser's compute still adds to the racers, through what leaks", "none"),
    _P("risk", "q", "probability", .2, .004, .5, "belief",
       "a catastrophe, when this party wins and all race",
       "XPT: 0.38-3 % (extinction), 2-12 % (catastrophe); Grace et al. 2023: median 5 %", per_party=True),
    _P("covert_risk", "q_c", "probability", None, .002, .5, "belief",
       "a catastrophe, when this party wins by cheating; between risk x (1 - solo_relief) and risk", "none",
       per_party=True, same_as="risk"),
    _P("solo_relief", "kappa", "share", .3, 0, .5, "assumption",
       "how much the risk falls when only one party races", "slope in Armstrong, Bostrom, Shulman 2016"),
    _P("enmity", "e", "share", 1, 0, 1.2, "belief",
       "loss of this party when another wins, in prizes; 0: does not mind who wins",
       "Armstrong, Bostrom, Shulman 2016", per_party=True),
    _P("loss", "D", "prizes", 2, 0, 10, "belief",
       "loss of this party in a catastrophe", "none: it is what people disagree about", per_party=True),
    # The pause
    _P("pause_risk", "q_s", "probability", .02, .001, .05, "assumption", "a catastrophe after a full pause", "none"),
    _P("safety_rate", "g", "1/yr", .1, .02, .5, "assumption",
       "how often a year of pause solves what makes it dangerous", "none"),
    _P("shared_value", "v_C", "prizes", .5, 1 / 12, .9, "assumption",
       "worth to this party of a safe deployment that all share; at least 1/N", "none", per_party=True),
    _P("pause_cost", "c", "prizes/yr", .02, 0, .05, "assumption", "what pausing costs", "none", per_party=True),
    _P("cheat_cost", "c_h", "prizes/yr", None, 0, .05, "assumption", "what cheating costs", "none",
       per_party=True, same_as="pause_cost"),
    _P("discount", "r", "1/yr", .05, .02, .1, "assumption", "discount rate", "none"),
    # Cheating
    _P("covert_speed", "psi", "share", .5, .05, 1, "assumption",
       "speed of covert training within declared runs, of this party's open speed", "chip diversion", per_party=True),
    _P("breakout", "T_b", "yr", .25, .01, 2, "belief",
       "time from the first covert step to the prize, at covert_speed, when cheating is lump",
       "FLOP / (chips x 1e15 FLOP/s x utilisation); falls with algorithmic progress"),
    _P("split_speed", "psi_s", "share", .1, 0, 1, "assumption",
       "speed of training split into runs below the treaty's threshold, of open speed", "none", per_party=True),
    _P("lineage", "ell", "share", .9, 0, 1, "assumption",
       "detection of a split run, of that of a whole one: 1 when lineage accounting misses nothing", "none"),
    _P("residual", "rho", "share", .02, 0, 1, "assumption",
       "compute that accounting leaves unexplained; covert training there meets no audit",
       "target 5 % of capacity; no bench of this project measures it yet"),
    _P("idle_leak", "eps", "share", 1e-4, 0, .1, "assumption",
       "compute hidden behind a passed idle proof", "target 1e-4; no bench of this project measures it yet"),
    _P("background", "eta", "1/yr", .22, 0, .48, "belief",
       "detection without inspections: defectors, intelligence", "nuclear cases .22-.48, unverified secondary data"),
    # Verification
    _P("inspections", "nu", "1/yr", 12, 0, 400, "choice", "inspections of each party", "the treaty"),
    _P("detection", "p_1", "probability", None, 0, 1, "measured",
       "one inspector finds a cheat in a run that it audits", "bench/audit.py"),
    _P("false_alarm", "a_1", "probability", None, 0, .2, "measured",
       "one inspector finds a violation in an honest run", "bench/audit.py"),
    _P("coverage", "z", "probability", .5, .01, 1, "assumption",
       "the inspection looks at a run that carries the cheat", "none"),
    _P("inspection_cost", "k", "prizes", 2e-4, 0, .01, "assumption",
       "what one inspection costs the inspected", "none"),
    _P("inspectors", "n", "parties", 3, 1, 64, "choice", "inspectors of each audit", "the treaty", whole=True),
    _P("confirmers", "n_c", "parties", None, 1, 64, "choice",
       "inspectors that may be asked to confirm a finding, with those who audit", "the treaty", whole=True,
       same_as="inspectors"),
    _P("quorum", "k_q", "parties", 2, 1, 64, "choice", "inspectors that must agree on a finding", "the treaty",
       whole=True),
    _P("corrupt", "b", "parties", 0, 0, 64, "assumption",
       "inspectors that accuse the honest and spare the guilty", "the treaty's faults", whole=True),
    # Answering
    _P("fine", "F", "prizes", 0, 0, .5, "choice", "fine on a public conviction", "the treaty"),
    _P("permit_lifetime", "tau", "yr", 1 / 52, 0, 2, "choice", "for how long a permit lasts", "the treaty"),
    _P("stop_time", "t_s", "s", None, 0, 86_400, "measured", "from the quorum to the last step of a run",
       "bench/stop.py"),
)
# fmt: on
PARAMETERS: Final = {p.name: p for p in TABLE}
BELIEFS: Final = tuple(p.name for p in TABLE if p.label == "belief")
