"""The table of coding agents: by which identities and trailers their commits are known.

Every row is a convention that the agent's maker documents or that its commits show in public histories. Matching is by
the agent's own address or name, never by a maker's domain: people at those companies write code too. Names are read as
they stand in the commit; a `.mailmap` could rename an agent to a person.
"""

import re
from dataclasses import dataclass
from typing import Final

from brakeline.gauges.git.history import Commit

AGENTS_VERSION: Final = 1


@dataclass(frozen=True)
class Agent:
    """An agent's own e-mail addresses, and patterns that a whole author name matches. All lower case."""

    name: str
    emails: frozenset[str]
    names: str = ""


def _agent(name: str, emails: str, names: str = "") -> Agent:
    return Agent(name, frozenset(emails.split()), names)


AGENTS: Final = (
    # aider marks the author's name: "Ada (aider)" is Ada's commit of aider's code.
    _agent("aider", "aider@aider.chat noreply@aider.chat noreply@aider.dev", r"aider( \(.*\))?|.*\(aider\)"),
    _agent("amp", "amp@ampcode.com"),
    _agent("claude", "noreply@anthropic.com", r"claude\[bot\]|claude code|claude (opus|sonnet|haiku)\b.*"),
    _agent("codex", "noreply@openai.com codex@openai.com", r"chatgpt-codex-connector\[bot\]"),
    _agent("copilot", "copilot@users.noreply.github.com", r"copilot|copilot-swe-agent(\[bot\])?"),
    _agent("crush", "crush@charm.land"),
    _agent("cursor", "cursoragent@cursor.com", r"cursor agent|cursoragent"),
    _agent("devin", "devin-ai-integration[bot]@users.noreply.github.com", r"devin-ai-integration\[bot\]|devin ai"),
    _agent("factory-droid", "factory-droid[bot]@users.noreply.github.com", r"factory-droid(\[bot\])?"),
    _agent("gemini", "gemini-code-assist[bot]@users.noreply.github.com", r"gemini-code-assist\[bot\]|gemini cli"),
    _agent("jules", "google-labs-jules[bot]@users.noreply.github.com", r"google-labs-jules\[bot\]"),
    _agent("opencode", "noreply@opencode.ai"),
    _agent("openhands", "openhands@all-hands.dev"),
    _agent("qwen-coder", "qwen-coder@alibabacloud.com"),
    _agent("sweep", "sweep-ai[bot]@users.noreply.github.com", r"sweep-ai(\[bot\])?"),
)

# GitHub's noreply addresses may begin with the account's number: 198982749+Copilot@users.noreply.github.com.
_NUMBERED: Final = re.compile(r"\d+\+(.*@users\.noreply\.github\.com)")
_BY_EMAIL: Final = {email: agent.name for agent in AGENTS for email in agent.emails}
_BY_NAME: Final = tuple((re.compile(agent.names), agent.name) for agent in AGENTS if agent.names)
# Also folded, as git-interpret-trailers(1) allows. No two repeats that match the same text may stand side by side: a
# message of many blanks would take for ever.
_COAUTHOR: Final = re.compile(
    r"^[ \t]*co-(?:authored|developed)-by[ \t]*:([^<\n]*(?:\n[ \t][^<\n]*)?)<([^<>\n]*)>", re.I | re.M
)
# Linux: Documentation/process/coding-assistants.rst, "Assisted-by: AGENT_NAME:MODEL_VERSION [TOOL1] [TOOL2]".
_ASSISTED: Final = re.compile(r"^[ \t]*assisted-by:[ \t]*([^\s:<>@]{1,40}):(?!//)\S", re.I | re.M)


def plain_email(email: str) -> str:
    """An address in lower case, without the account number that GitHub puts before its noreply addresses."""
    email = email.strip().lower()
    match = _NUMBERED.fullmatch(email)
    return match[1] if match else email


def agent_of_identity(name: str, email: str) -> str | None:
    """The agent that an author or co-author is, or None."""
    if agent := _BY_EMAIL.get(plain_email(email)):
        return agent
    name = name.strip().lower()
    return next((agent for pattern, agent in _BY_NAME if pattern.fullmatch(name)), None)


def coauthors(message: str) -> tuple[tuple[str, str], ...]:
    """Names and addresses in `Co-authored-by:` lines, anywhere: a squash merge leaves them amid the text."""
    return tuple((m[1].strip(), m[2]) for m in _COAUTHOR.finditer(message))


def agent_of_trailers(message: str) -> str | None:
    """The first agent that a trailer names, or None. `Assisted-by: AGENT:MODEL` may name agents outside the table."""
    for name, email in coauthors(message):
        if agent := agent_of_identity(name, email):
            return agent
    match = _ASSISTED.search(message)
    return match[1].lower() if match else None


def is_ai(commit: Commit) -> bool:
    return bool(agent_of_identity(*commit.author) or agent_of_trailers(commit.message))
