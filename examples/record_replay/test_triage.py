"""What the desk makes of mail, with answers of a real model, recorded once."""

from types import SimpleNamespace

import pytest
from triage import TOPICS, URGENCIES, Desk, Ticket

from llm_cache_mem import CacheMissError, ignoring

# Where the model runs does not matter: a server on another port, or another machine, gives the same
# recordings.
pytestmark = pytest.mark.llm_cache(key_fn=ignoring("http.base_url"), redact=["http.base_url"])

MAILS = {
    "late": "Hello, my parcel should have been here a week ago. Where is it? I need it on Friday!",
    "charged twice": (
        "Good morning. You have charged my card twice for order 1042. Please correct that."
    ),
    "broken": "The kettle that I bought from you gives sparks when I plug it in.",
    "greeting": "Grüße aus Łódź 🎈 – I only wanted to say how much I like your tea.",
}


@pytest.mark.parametrize("name", MAILS)
def test_every_mail_has_a_topic_and_an_urgency(desk: Desk, name: str) -> None:
    ticket = desk.sort(MAILS[name])
    assert ticket.mail == MAILS[name]
    assert ticket.topic in TOPICS
    assert ticket.urgency in URGENCIES


async def test_sorting_all_at_once_gives_the_same_as_one_by_one(
    desk: Desk, async_desk: Desk
) -> None:
    one_by_one = [desk.sort(mail) for mail in MAILS.values()]
    assert await async_desk.sort_all(MAILS.values()) == one_by_one


def test_a_reply_comes_in_pieces(desk: Desk) -> None:
    pieces = list(desk.reply(Ticket(MAILS["late"], "delivery", "high")))
    assert len(pieces) > 3
    assert "".join(pieces).strip()


@pytest.mark.llm_cache(mode="replay")
def test_a_question_that_nobody_recorded_is_an_error_and_not_a_call(desk: Desk) -> None:
    with pytest.raises(CacheMissError, match=r"messages\[1\]\.content"):
        desk.sort("This mail was never sent.")


@pytest.mark.parametrize(
    "said", ["", "delivery", '{"topic": "weather", "urgency": "low"}', '["delivery"]', None]
)
def test_what_is_no_answer_is_for_a_person_to_look_at(said: str | None) -> None:
    answer = SimpleNamespace(choices=[SimpleNamespace(message=SimpleNamespace(content=said))])
    client = SimpleNamespace(
        chat=SimpleNamespace(completions=SimpleNamespace(create=lambda **request: answer))
    )
    assert Desk(client, "any").sort("mail") == Ticket("mail", "other", "high")
