"""Who is one person, and whose work a commit is.

One person under five addresses would count as five slow engineers, so addresses are joined by the repository's own
`.mailmap`, by name and by the part before the @, as far as these are specific. Bots are nobody. An agent's commit is
the work of whoever merged it.
"""

import re
import unicodedata
from collections.abc import Iterable
from typing import Final

from brakeline.gauges.authorship.agents import agent_of_identity, coauthors, plain_email
from brakeline.gauges.git.history import Commit

PEOPLE_VERSION: Final = 1
Identity = tuple[str, str]  # name, e-mail

# Bots that do not write "[bot]" at the end of their names.
_BOTS: Final = frozenset(
    {
        "allcontributors",
        "dependabot",
        "github-actions",
        "imgbotapp",
        "pre-commit-ci",
        "renovate",
        "snyk-bot",
        "web-flow",
    }
)
_WEB: Final = frozenset({"noreply@github.com", "action@github.com", "actions@github.com"})
_SHARED: Final = frozenset(
    {
        "administrator",
        "anonymous",
        "developer",
        "developers",
        "localhost",
        "no-reply",
        "noreply",
        "postmaster",
        "unknown",
    }
    | {"your name", "your.name", "test user", "github actions", "first last", "jenkins"}
)
_AIDER: Final = re.compile(r"\s*\(aider\)\s*$", re.IGNORECASE)
_ADDRESS: Final = re.compile(r"([^<>]*)<([^<>]*)>")


def is_bot(identity: Identity) -> bool:
    name, email = identity[0].strip().lower(), plain_email(identity[1])
    return name.endswith("[bot]") or email.partition("@")[0].endswith("[bot]") or name in _BOTS or email in _WEB


def credited(commit: Commit) -> Identity | None:
    """Whose work the commit is: its author, or for an agent's the person who committed or co-signed it. Bots: None."""
    name, email = commit.author
    if _AIDER.search(name) and not agent_of_identity("", email):
        return _AIDER.sub("", name), email  # aider marks the name of the person at the keyboard
    candidates = [commit.author]
    if agent_of_identity(*commit.author):
        candidates = [commit.committer, *coauthors(commit.message)]
    return next((c for c in candidates if not agent_of_identity(*c) and not is_bot(c)), None)


def specific(text: str) -> bool:
    """Whether a name or local part says who it is: of two words, or with a digit, or long. `jane` is many people."""
    words = [word for word in re.split(r"[\s._+-]+", text) if word]
    return text not in _SHARED and (len(words) > 1 or len(text) >= 8 or any(c.isdigit() for c in text))


def _keys(identity: Identity) -> list[str]:
    """What an identity may be joined by; the first key is always its own."""
    name = " ".join(unicodedata.normalize("NFKC", _AIDER.sub("", identity[0])).casefold().split())
    email = plain_email(identity[1])
    local = email.partition("@")[0]
    own = f"{name} <{email}>"
    keys = [own]
    if email and local not in _SHARED and local not in ("root", "admin", "info", "dev", "git", "user", "you", "me"):
        keys.append(f"<{email}>")
    if specific(local):
        keys.append(f"{local}@")
    if specific(name):
        keys.append(name)
    return keys


class People:
    """Joins identities to persons. Feed it every identity and mailmap before asking."""

    def __init__(self) -> None:
        self._parent: dict[str, str] = {}

    def add(self, identity: Identity) -> None:
        own, *others = _keys(identity)
        self._find(own)
        for other in others:
            self._join(own, other)

    def add_mailmap(self, text: str) -> None:
        """Join what each row of a gitmailmap(5) file names: `Proper Name <proper@mail> Commit Name <commit@mail>`."""
        for row in text.splitlines():
            found = [(name.strip(), email) for name, email in _ADDRESS.findall(row.partition("#")[0])]
            if not found or len(found) > 2:
                continue
            for identity in found:
                self.add(identity)
            proper, commit = found[0], found[-1]
            # A commit name restricts the row to that name; without one, the row is about the whole address.
            self._join(_keys(proper)[0], _keys(commit)[0])
            if not commit[0]:
                self._join(_keys(proper)[0], f"<{plain_email(commit[1])}>")

    def person(self, identity: Identity) -> str:
        """The same text for all identities of one person."""
        return self._find(_keys(identity)[0])

    def _find(self, key: str) -> str:
        self._parent.setdefault(key, key)
        root = key
        while self._parent[root] != root:
            root = self._parent[root]
        while self._parent[key] != root:
            self._parent[key], key = root, self._parent[key]
        return root

    def _join(self, a: str, b: str) -> None:
        # The smaller root wins, so that the result does not depend on the order of joining.
        low, high = sorted((self._find(a), self._find(b)))
        self._parent[high] = low


def join(identities: Iterable[Identity], mailmaps: Iterable[str]) -> People:
    people = People()
    for identity in identities:
        people.add(identity)
    for text in mailmaps:
        people.add_mailmap(text)
    return people
