"""The questions of the demo: a day of a support agent in a small tea shop."""

from typing import Final

__all__ = [
    "BURSTS",
    "EVALUATION",
    "LONG",
    "NEW_CASES",
    "STREAMED",
    "SYSTEM",
    "TICKETS",
    "Steps",
    "ticket_steps",
]

SYSTEM: Final = (
    "You work for a small tea shop. Orders leave within two days, returns are free for thirty days,"
    " and gift cards never expire. Answer with one short sentence."
)

# Customers ask the same questions, so the agent makes the same calls.
TICKETS: Final = (
    "Where is my parcel? I ordered a week ago.",
    "Can I return a tin that I have opened?",
    "Do your gift cards expire?",
    "The teapot came with a broken lid.",
    "How long should green tea steep?",
    "Do you ship on Saturdays?",
    "Is the breakfast blend organic?",
    "I was charged twice for one order.",
)

# Several agents, or instances of one, ask at the same moment.
BURSTS: Final = (
    "Name one tea that goes well with lemon cake.",
    "Write a friendly greeting for the shop window.",
    "What temperature is right for oolong tea?",
    "Suggest a name for a new mint tea.",
)

# Like real evaluation sets: some cases occur more than once, and the set runs again after every
# change.
EVALUATION: Final = (
    "Is this review positive or negative? 'Lovely aroma, will buy again.'",
    "Is this review positive or negative? 'Tastes like wet cardboard.'",
    "Is this review positive or negative? 'Arrived late, but the tea is excellent.'",
    "Is this review positive or negative? 'The box was crushed and half empty.'",
    "Is this review positive or negative? 'My grandmother loves it.'",
    "Is this review positive or negative? 'Never again.'",
    "Translate into French: Good morning.",
    "Translate into French: Thank you very much.",
    "Translate into Spanish: See you tomorrow.",
    "Give the plural of 'leaf'.",
    "What is the opposite of 'bitter'?",
    "How many grams are in half a kilogram?",
    "Which month comes after August?",
    "Complete the sentence: Tea was first grown in",
)
NEW_CASES: Final = (
    "Is this review positive or negative? 'Better than coffee.'",
    "Translate into Italian: Good evening.",
    "Give the plural of 'knife'.",
)
STREAMED: Final = (
    "Describe jasmine tea in one sentence.",
    "Describe black tea in one sentence.",
    "Describe rooibos in one sentence.",
)
LONG: Final = "Tell the history of tea in China in great detail, dynasty by dynasty."

Steps = tuple[str, str]


def ticket_steps(ticket: str) -> Steps:
    """Return the calls that an agent makes for one ticket: classify it, then draft a reply."""
    return (
        f"A customer writes: {ticket} What is it about: delivery, payment, product or advice?",
        f"A customer writes: {ticket} Write a one-sentence reply.",
    )
