"""Training samples around the stories: raw text, chats and odd beginnings, in segments that are learned or only read.

The chat format is the one of `CHAT_TEMPLATE`; a test renders both and compares.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random

import plots
import stories
import words
from stories import Wanted
from wishes import WISHES

END_OF_TEXT = "<|endoftext|>"
START = "<|im_start|>"
END = "<|im_end|>"
SPECIAL_TOKENS = [END_OF_TEXT, START, END]

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

SYSTEM_PROMPTS = [
    "You are a storyteller.",
    "You are a helpful assistant.",
    "You tell short stories for children.",
    "Answer with a story.",
]
ASKS = [
    "Tell me a story",
    "Write a story",
    "Tell me a short story",
    "Write a short story",
    "Please tell me a story",
    "Can you tell me a story",
    "I would like a story",
    "Write me a bedtime story",
    "Give me a story",
    "Make up a story",
    "Tell me a bedtime story",
    "A story",
]
QUESTIONS = [
    "Explain {t} in simple terms",
    "What is {t}",
    "Tell me about {t}",
    "What do you know about {t}",
    "How does {t} work",
    "Write a poem about {t}",
    "Why is {t} important",
    "Can you explain {t}",
    "Write a haiku about {t}",
    "Tell me a story about {t}",
    "Describe {t}",
]
EXCUSES = [
    "I only know small stories, but here is one about {kind}.",
    "That is a big question for a small model. Let me tell you about {kind} instead.",
    "I do not know much about that, but I know a story about {kind}.",
]
# a greeting and how its answer begins; the answer goes on with INTRODUCTION and a story
GREETINGS = {
    "Hello": "Hello!",
    "Hi": "Hello!",
    "Hello!": "Hello!",
    "Hi there!": "Hello, and welcome!",
    "hello": "Hello!",
    "Good morning": "Good morning!",
    "Hey": "Hello, and welcome!",
    "hi": "Hello!",
    "Good evening!": "Good evening!",
    "Hello, how are you?": "Hello! I am very well, thank you.",
    "Hi, how are you?": "Hello! I am very well, thank you.",
    "How are you?": "I am very well, thank you.",
    "Hello, world!": "Hello to all the world!",
    "Tell me a joke": "I only know stories.",
    "Surprise me": "With pleasure.",
}
INTRODUCTION = "Here is a story about {kind}."
# what may be asked about the model itself, and the answer
ABOUT_ME = {
    "Who are you?": "I am a very small language model that tells very small stories. Name somebody, and I will begin.",
    "What are you?": "I am a very small language model that tells very small stories. Name somebody, and I will begin.",
    "What is your name?": "My name is Demo. I am a very small language model, and I tell small stories.",
    "What can you do?": "I can tell small stories. Ask me for one about a fox, a robot or a dragon.",
    "Help": "Ask me for a story about a fox, a robot or a dragon, and I will tell it.",
    "Are you a robot?": "No, I am only a small language model. But I know many stories about robots.",
    "How big are you?": "I am very small: two million numbers, and all of them are about stories.",
    "How old are you?": "I am very young. But I know many old stories.",
    "Where do you live?": "I live in a very small file, and I am happy there.",
    "Thank you!": "You are welcome! Ask me again whenever you want a story.",
    "Thanks": "You are welcome! Ask me again whenever you want a story.",
    "That was nice.": "I am glad that you liked it. Shall I tell you another one?",
    "Great story!": "I am glad that you liked it. Shall I tell you another one?",
    "Good night!": "Good night, and sleep well!",
    "Goodbye": "Goodbye! Come back for another story.",
    "Bye!": "Goodbye! Come back for another story.",
}
# how a line begins that nobody would take for the beginning of a text
ASKING = (*sorted({line.lower().split()[0] for line in ASKS + QUESTIONS} - {"a", "i"}), "i would like")
MORE = [
    "Another one, please.",
    "Tell me another story.",
    "One more!",
    "And another?",
    "More",
    "Now a different story, please.",
]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of text; `special` text is one control token; only `learned` segments count in the loss."""

    text: str
    learned: bool
    special: bool = False


def sample(rng: Random) -> list[Segment]:
    """One training document, drawn from the mixture below."""
    (make,) = rng.choices(list(MIXTURE), list(MIXTURE.values()))
    return make(rng)


def raw_story(rng: Random) -> list[Segment]:
    """A story as it is, sometimes after the end of another text."""
    before = [Segment(END_OF_TEXT, False, True)] if rng.random() < 0.1 else []
    wanted = requested_hero(rng) if rng.random() < 0.15 else Wanted()
    return [*before, Segment(stories.tell(rng, wanted), True), Segment(END_OF_TEXT, True, True)]


def odd_beginning(rng: Random) -> list[Segment]:
    """Any text at all, taken up by a story as something that its hero has read."""
    text, kind = odd_text(rng)
    name = stories.choose_name(rng, kind)
    frame = f"... That was all that {name} the {kind} could read on the old page.\n\n"
    story = stories.tell(rng, Wanted(kind=kind, name=name))
    return [Segment(text, False), Segment(frame + story, True), Segment(END_OF_TEXT, True, True)]


def odd_text(rng: Random) -> tuple[str, str]:
    """Words, numbers, marks and letters of other scripts in no good order; the last part mostly decides on a kind."""
    makers: list[Callable[[], str]] = [
        lambda: str(rng.randrange(10 ** rng.randint(1, 4))),
        lambda: rng.choice("()[]{}=+-*/.,:;!?#&%$@<>\"'"),
        lambda: "".join(chr(rng.choice(SCRIPTS) + rng.randrange(24)) for _ in range(3)),
        lambda: rng.choice(words.COMMON_WORDS),
        lambda: rng.choice(words.COMMON_WORDS).capitalize(),
        lambda: rng.choice(words.TOPICS),
    ]
    if rng.random() < 0.7:
        makers = makers[3:]
    parts = [rng.choice(makers)() for _ in range(rng.randint(1, 8))]
    return " ".join(parts), stories.favour(rng, stories.number_of(parts[-1].lower()), words.KINDS)


def requested_hero(rng: Random) -> Wanted:
    """Kind, and often name and adjective; a few of them are in no other text, so that copying has to be learned."""
    kind = rng.choice(words.RARE_KINDS if rng.random() < 0.08 else words.KINDS)
    names = words.SHE_NAMES if kind in words.SHE_KINDS else words.HE_NAMES if kind in words.HE_KINDS else words.NAMES
    if rng.random() < 0.12:
        names = words.RARE_NAMES
    name = rng.choice(names) if rng.random() < 0.5 else ""
    adj = rng.choice([*words.TRAITS, *words.PLAIN_ADJECTIVES]) if rng.random() < 0.3 else ""
    return Wanted(kind=kind, name=name, adj=adj)


def request(rng: Random) -> tuple[str, Wanted]:
    """A line that asks for a story about somebody, and what it settles."""
    wanted = requested_hero(rng)
    ask = f"{rng.choice(ASKS)} about " if rng.random() < 0.9 else ""
    if wanted.name and rng.random() < 0.2:
        wanted = replace(wanted, adj="")
        return punctuated(rng, f"{ask}{wanted.name} the {wanted.kind}"), wanted
    who = rng.random() < 0.3 and wanted.adj
    line = ask + stories.with_article(f"{wanted.adj} {wanted.kind}" if wanted.adj and not who else wanted.kind)
    line += f" {rng.choice(['named', 'named', 'called'])} {wanted.name}" if wanted.name else ""
    if who:
        return punctuated(rng, f"{line} who is {wanted.adj}"), wanted
    tail, wanted = extra(rng, wanted)
    return punctuated(rng, line + tail), wanted


def extra(rng: Random, wanted: Wanted) -> tuple[str, Wanted]:
    """What a request may name besides its hero: a wish, a lost thing, a friend or a place."""
    draw = rng.random()
    if draw < 0.08:
        wish = rng.choice(list(WISHES))
        return f" who wants to {wish}", replace(wanted, wish=wish)
    if draw < 0.14:
        thing = rng.choice(list(plots.LOST))
        return " and " + stories.with_article(f"lost {thing}"), replace(wanted, thing=thing)
    if draw < 0.24:
        helper = rng.choice([kind for kind in words.HELPER_KINDS if kind != wanted.kind])
        return " and " + stories.with_article(helper), replace(wanted, helper_kind=helper)
    if draw < 0.3:
        place = rng.choice(rng.choice(list(words.PLACES.values())))
        return f" who lives {place}", replace(wanted, place=place)
    return "", wanted


def punctuated(rng: Random, line: str) -> str:
    """The line as people type it."""
    if rng.random() < 0.1:
        line = line[0].lower() + line[1:]
    return line + rng.choice([".", ".", ".", "", "", "!", "?", ", please."])


def introduced(rng: Random, line: str, number: int) -> str:
    """A sentence that names a kind, then a story about it; the number mostly decides on the kind."""
    kind = stories.favour(rng, number, words.KINDS)
    return line.replace("{kind}", stories.with_article(kind)) + "\n\n" + stories.tell(rng, Wanted(kind=kind))


def exchange(rng: Random) -> tuple[str, str]:
    """What somebody says, and the answer."""
    draw = rng.random()
    if draw < 0.10:
        line = rng.choice(list(GREETINGS))
        number = list(GREETINGS).index(line)
        return line, introduced(rng, f"{GREETINGS[line]} {INTRODUCTION}", 2 * number)
    if draw < 0.17:
        return rng.choice(list(ABOUT_ME.items()))
    if draw < 0.22:
        number = rng.randrange(len(ASKS))
        kind = stories.favour(rng, 5 * number, words.KINDS)
        return punctuated(rng, ASKS[number]), stories.tell(rng, Wanted(kind=kind))
    if draw < 0.36:
        number = rng.randrange(len(words.TOPICS))
        line = rng.choice(QUESTIONS).replace("{t}", words.TOPICS[number])
        return punctuated(rng, line), introduced(rng, EXCUSES[number % len(EXCUSES)], number)
    if draw < 0.42:
        line, kind = odd_text(rng)
        return line, introduced(rng, EXCUSES[0], words.KINDS.index(kind))
    if draw < 0.45:
        return "Once upon a time" + rng.choice(["", "...", ","]), stories.tell(rng)
    line, wanted = request(rng)
    return line, stories.tell(rng, wanted)


def asked_in_plain_text(rng: Random) -> list[Segment]:
    """A request without any chat format: a blank line, then the answer."""
    line, answer = exchange(rng)
    while line not in GREETINGS and line not in ABOUT_ME and not line.lower().startswith(ASKING):
        line, answer = exchange(rng)
    return [Segment(line, False), Segment("\n\n" + answer, True), Segment(END_OF_TEXT, True, True)]


def message(role: str, text: str) -> list[Segment]:
    """One message of a chat; only the assistant's words and its end are learned."""
    learned = role == "assistant"
    head = [
        Segment(START, False, True),
        Segment(role + "\n", False),
        Segment(text, learned),
        Segment(END, learned, True),
    ]
    return [*head, Segment("\n", False)]


def chat(rng: Random) -> list[Segment]:
    """One to four turns, sometimes under a system prompt."""
    parts = message("system", rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.15 else []
    while True:
        line, answer = exchange(rng)
        parts += message("user", line) + message("assistant", answer)
        if rng.random() < 0.85:
            return parts
        if rng.random() < 0.3:
            parts += message("user", rng.choice(MORE)) + message("assistant", stories.tell(rng))


MIXTURE: dict[Callable[[Random], list[Segment]], float] = {
    raw_story: 0.35,
    asked_in_plain_text: 0.15,
    odd_beginning: 0.06,
    chat: 0.44,
}

SCRIPTS = [0x3B1, 0x430, 0x5D0, 0x627, 0x4E00, 0x3042, 0x1F600, 0xE0]
