"""What a reader says of one answer: thumb, rating, correction, flag; two windows do not overwrite
each other.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

from fastapi import Request, Response
from fastapi.responses import RedirectResponse

from domainlm.errors import DomainLMError
from domainlm.feedback.record import Words
from domainlm.schema import Actor, Edit, EventKind, FeedbackEvent, Rating, Thumb
from domainlm.server.answers import Given
from domainlm.server.failures import status_of
from domainlm.server.pages.citing import view_of
from domainlm.server.pages.desk import Desk
from domainlm.server.pages.render import is_fragment

# The check for a newer correction and the writing of this one must not be interleaved.
_saving = threading.Lock()


@dataclass(frozen=True, slots=True)
class Saying:
    """What stands of a reader's word on an answer. `edit_base` is the newest correction by anyone
    that this page knows of.
    """

    thumb: str = ""
    rating: int | None = None
    edit: str = ""
    edit_base: str = ""


@dataclass(frozen=True, slots=True)
class Form:
    """What came with the form; one of these is given."""

    thumb: str = ""
    rating: int | None = None
    edit: str = ""
    base: str = ""
    flag: str = ""


@dataclass(frozen=True, slots=True)
class Theirs:
    """A correction that came in between."""

    by: str
    time: str
    text: str


def saying(desk: Desk, answer_id: str, reader: str) -> Saying:
    """What `reader` has said of an answer so far."""
    thumb, rating, edit, base = "", None, "", ""
    for event in desk.logbook.read().by_answer.get(answer_id, ()):
        if len(event.shown) != 1 or event.actor.kind != "person":
            continue
        mine = event.actor.name == reader
        if isinstance(event.payload, Edit):
            base = event.id
            edit = desk.logbook.text(event.payload.text_sha256) if mine else edit
        elif mine and isinstance(event.payload, Thumb):
            thumb = "up" if event.payload.up else "down"
        elif mine and isinstance(event.payload, Rating):
            rating = event.payload.score
    return Saying(thumb, rating, edit, base)


def judged(desk: Desk, request: Request, given: Given, form: Form) -> Response:
    """Keep what was said and show the buttons as they stand then."""
    site, reader = desk.site, request.state.user.name
    message, kind, status, draft, theirs = "", "good", 200, "", None
    try:
        with _saving:
            now = saying(desk, given.id, reader)
            if form.edit and form.base != now.edit_base:
                theirs, draft, status = _theirs(desk, given.id, now.edit_base), form.edit, 409
            else:
                message = _keep(
                    desk, given, form, now, Actor("person", reader, request.state.user.role)
                )
                site.audit.note(reader, "feedback", answer=given.id)
    except DomainLMError as error:
        message, kind, status, draft = str(error), "bad", status_of(error), form.edit
    if not is_fragment(request) and status == 200:
        return RedirectResponse(f"/ask/{given.id}", 303)
    return desk.renderer.page(
        request,
        "judge.html",
        status=status if status in (200, 409, 422) else 422,
        view=view_of(given.answer, given.id),
        said=saying(desk, given.id, reader),
        message=message,
        message_kind=kind,
        draft=draft,
        theirs=theirs,
    )


def _keep(desk: Desk, given: Given, form: Form, now: Saying, actor: Actor) -> str:
    opinions = desk.site.opinions
    # What is pressed already is taken back by pressing it again.
    again = (form.thumb and form.thumb == now.thumb) or (form.rating and form.rating == now.rating)
    wanted: EventKind = "thumb" if form.thumb else "rating" if form.rating else "edit"
    before = _mine(desk, given.id, actor.name, wanted)
    if again and before:
        opinions.retract(before.id, "", actor)
        return "Taken back."
    words = Words(form.thumb, form.rating, form.edit, flag=form.flag)
    # Only the very same author can replace a word, and a role may have changed since.
    replaced = before.id if before and before.actor == actor and not form.flag else ""
    kept = opinions.say([given.id], words, actor, supersedes=replaced)
    if kept.split == "train":
        return "Kept. The next improve round can learn from it."
    why = "is held out" if kept.split else "is too like one that is held out"
    return f"Kept. The question {why}, so this measures and never trains."


def _mine(desk: Desk, answer_id: str, reader: str, kind: EventKind) -> FeedbackEvent | None:
    events = desk.logbook.read().by_answer.get(answer_id, ())
    return next((e for e in reversed(events) if e.actor.name == reader and e.kind == kind), None)


def _theirs(desk: Desk, answer_id: str, event_id: str) -> Theirs | None:
    events = desk.logbook.read().by_answer.get(answer_id, ())
    event = next((e for e in events if e.id == event_id), None)
    if event is None or not isinstance(event.payload, Edit):
        return Theirs("someone", "", "(it was taken back)")
    text = desk.logbook.text(event.payload.text_sha256)
    return Theirs(event.actor.name, event.time, text)
