"""The treaty: one TOML text, read strictly. Its identity is the SHA-256 of its exact bytes.

`values` is what a treaty says, `text` and `checks` read it, `legal` writes it as numbered articles.
"""

from brakeline.core.treaty.checks import check_draft, draft_fields, missing_keys, parse_treaty
from brakeline.core.treaty.legal import (
    ARTICLES,
    PEOPLE,
    Change,
    articles_digest,
    compare,
    duration,
    exact,
    render,
    rules,
)
from brakeline.core.treaty.values import (
    BEHIND,
    RULES,
    Budget,
    Condition,
    Duty,
    Exemption,
    GaugeClass,
    Growth,
    IncidentClass,
    Lane,
    Party,
    Role,
    Tier,
    Treaty,
    Trigger,
)

__all__ = [
    "ARTICLES",
    "BEHIND",
    "PEOPLE",
    "RULES",
    "Budget",
    "Change",
    "Condition",
    "Duty",
    "Exemption",
    "GaugeClass",
    "Growth",
    "IncidentClass",
    "Lane",
    "Party",
    "Role",
    "Tier",
    "Treaty",
    "Trigger",
    "articles_digest",
    "check_draft",
    "compare",
    "draft_fields",
    "duration",
    "exact",
    "missing_keys",
    "parse_treaty",
    "render",
    "rules",
]
