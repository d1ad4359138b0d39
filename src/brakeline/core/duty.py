"""What parties owe one another on the record: incidents, notices, requests and reports. Article 10."""

from brakeline.core.encoding import Wire, is_text
from brakeline.core.errors import Malformed

MAX_TEXT = 4000  # characters


class Incident(Wire, frozen=True):
    """Body of an `incident`: one of the treaty's classes, known to its issuer since `known` (POSIX s). Treaty 10.1."""

    incident: str
    known: int
    text: str


class Notice(Wire, frozen=True):
    """Body of a `notice`: a run of its issuer is in a tier, or it is known that it will be. Treaty 10.2.

    `about` is the log entry that the notice answers, or -1 where nobody has asked yet.
    """

    about: int
    text: str


class Request(Wire, frozen=True):
    """Body of a `request`: its issuer asks `party` for a report. Treaty 10.3."""

    party: str
    text: str


class Report(Wire, frozen=True):
    """Body of a `report`: the answer to the request in log entry `about`. Treaty 10.3."""

    about: int
    text: str


def check_text(text: str) -> None:
    """Raises:
    Malformed: empty, too long, or with what no page can show.
    """
    if not 0 < len(text) <= MAX_TEXT or not is_text(text.replace("\n", "")):
        raise Malformed(f"a text is printable and has at most {MAX_TEXT} characters")
