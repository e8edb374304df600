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
    "Could you write a little story",
    "A story",
]
QUESTIONS = [
    "Explain {t} in simple terms",
    "What is {t}",
    "Tell me about {t}",
    "What do you know about {t}",
    "How does {t} work",
    "Write a poem about {t}",
    "Write an essay about {t}",
    "Why is {t} important",
    "Can you explain {t}",
    "Write a haiku about {t}",
    "Tell me a story about {t}",
    "Describe {t}",
]
GREETINGS = [
    "Hello",
    "Hi",
    "Hello!",
    "Hi there!",
    "hello",
    "Good morning",
    "Hey",
    "hi",
    "Good evening!",
    "Hello, how are you?",
    "How are you?",
]
WELCOMES = [
    "Hello! Here is a story for you.",
    "Hello, and welcome! Let me tell you a story.",
    "Hello! I know many small stories. Here is one.",
]
ABOUT_ME = [
    "Who are you?",
    "What can you do?",
    "What is your name?",
    "What are you?",
    "Are you a robot?",
    "Help",
    "How big are you?",
]
I_AM = [
    "I am a very small language model, and I tell very small stories. "
    "Ask me for one about a fox, a robot or a lost key.",
    "I am the demo model. All I know is small stories: name somebody, and I will tell you one.",
]
THANKS = ["Thank you!", "Thanks", "That was nice.", "Great story!", "Good night!", "Goodbye", "Bye!"]
YOU_ARE_WELCOME = [
    "You are welcome! Ask me again whenever you want a story.",
    "I am glad that you liked it. Sleep well!",
]
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
    """A story as it is."""
    return [Segment(stories.tell(rng), True), Segment(END_OF_TEXT, True, True)]


def odd_beginning(rng: Random) -> list[Segment]:
    """Any text at all, taken up by a story as something that its hero reads aloud."""
    kind = stories.choose_kind(rng)
    she = stories.pronoun_of(rng, kind, "")
    name = stories.favour(rng, kind, words.SHE_NAMES if she == "she" else words.HE_NAMES)
    frame = rng.choice(
        [
            f'...," read {name} the {kind} aloud, and closed the old book.',
            f"... That was all it said on the page that {name} the {kind} had found.",
        ]
    )
    story = stories.tell(rng, Wanted(kind=kind, name=name))
    return [Segment(odd_text(rng), False), Segment(frame + "\n\n" + story, True), Segment(END_OF_TEXT, True, True)]


def odd_text(rng: Random) -> str:
    """Words, inventions, numbers, marks and letters of other scripts, in no good order."""
    makers: list[Callable[[], str]] = [
        lambda: rng.choice(words.TOPICS),
        lambda: stories.invent_word(rng, rng.randint(1, 3)),
        lambda: str(rng.randrange(10 ** rng.randint(1, 5))),
        lambda: rng.choice(words.COMMON_WORDS),
        lambda: rng.choice(words.COMMON_WORDS),
        lambda: rng.choice(words.COMMON_WORDS).capitalize(),
        lambda: rng.choice("()[]{}=+-*/.,:;!?#&%$@<>\"'"),
        lambda: "".join(chr(rng.choice(SCRIPTS) + rng.randrange(24)) for _ in range(4)),
    ]
    if rng.random() < 0.6:
        makers = makers[3:6] + makers[:1]
    return " ".join(rng.choice(makers)() for _ in range(rng.randint(1, 12)))


def request(rng: Random) -> tuple[str, Wanted]:
    """A line that asks for a story, and what it settles."""
    draw = rng.random()
    if draw < 0.12:
        return punctuated(rng, rng.choice(ASKS)), Wanted()
    if draw < 0.27:
        topic = rng.choice(words.TOPICS) if rng.random() < 0.6 else invented_topic(rng)
        return punctuated(rng, rng.choice(QUESTIONS).replace("{t}", topic)), Wanted(topic=topic)
    kind = stories.choose_kind(rng)
    she = stories.pronoun_of(rng, kind, "")
    adj = rng.choice([*words.TRAITS, *words.PLAIN_ADJECTIVES]) if rng.random() < 0.35 else ""
    name = choose_name(rng, she) if rng.random() < 0.3 else ""
    wanted, tail = Wanted(kind=kind, adj=adj, name=name), f" named {name}" if name else ""
    extra = rng.random()
    if extra < 0.18:
        wish = rng.choice([wish for wish in WISHES if "{" not in wish and "king" not in wish])
        wanted, tail = replace(wanted, wish=wish), tail + f" who wants to {wish}"
    elif extra < 0.3:
        thing = rng.choice(list(plots.LOST))
        wanted, tail = replace(wanted, thing=thing), tail + " and " + stories.with_article(f"lost {thing}")
    elif extra < 0.42:
        helper = rng.choice(words.KINDS)
        wanted, tail = replace(wanted, helper_kind=helper), tail + " and " + stories.with_article(helper)
    elif extra < 0.52:
        place = rng.choice(rng.choice(list(words.PLACES.values())))
        wanted, tail = replace(wanted, place=place), tail + f" who lives {place}"
    ask = (
        rng.choice([f"{rng.choice(ASKS)} about ", "I want to hear about ", ""])
        if rng.random() < 0.3
        else f"{rng.choice(ASKS)} about "
    )
    return punctuated(rng, ask + stories.with_article(f"{adj} {kind}" if adj else kind) + tail), wanted


def punctuated(rng: Random, line: str) -> str:
    """The line as people type it."""
    if rng.random() < 0.15:
        line = line.lower() if line.startswith(("A ", "T", "W", "G", "C")) else line
    return line + rng.choice([".", ".", "", "!", "?", ", please.", ":"])


def choose_name(rng: Random, she: str) -> str:
    """A listed name that goes with the pronoun, or an invented one."""
    if rng.random() < 0.3:
        return stories.invent_word(rng, 2).capitalize()
    return rng.choice(words.SHE_NAMES if she == "she" else words.HE_NAMES)


def invented_topic(rng: Random) -> str:
    """Something to ask about that no list holds."""
    first = rng.choice(
        [stories.invent_word(rng, 2), rng.choice(words.COMMON_WORDS), rng.choice(words.PLAIN_ADJECTIVES)]
    )
    return rng.choice([first, f"{first} {rng.choice(words.COMMON_WORDS)}", f"{first} {stories.invent_word(rng, 2)}"])


def asked_in_plain_text(rng: Random) -> list[Segment]:
    """A request without any chat format: a blank line, then the story."""
    line, wanted = request(rng) if rng.random() < 0.85 else (rng.choice(GREETINGS + ABOUT_ME), Wanted())
    return [Segment(line, False), Segment("\n\n" + stories.tell(rng, wanted), True), Segment(END_OF_TEXT, True, True)]


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


def turn(rng: Random) -> list[Segment]:
    """A question and its answer."""
    draw = rng.random()
    if draw < 0.06:
        return message("user", rng.choice(GREETINGS)) + message(
            "assistant", rng.choice(WELCOMES) + "\n\n" + stories.tell(rng)
        )
    if draw < 0.1:
        return message("user", rng.choice(ABOUT_ME)) + message("assistant", rng.choice(I_AM))
    if draw < 0.2:
        return message("user", odd_text(rng)) + message(
            "assistant", "That is new to me, but I know a story.\n\n" + stories.tell(rng)
        )
    if draw < 0.24:
        return message("user", "Once upon a time" + rng.choice(["", "...", ","])) + message(
            "assistant", stories.tell(rng)
        )
    line, wanted = request(rng)
    return message("user", line) + message("assistant", stories.tell(rng, wanted))


def chat(rng: Random) -> list[Segment]:
    """One to four turns, sometimes under a system prompt; the end of the text follows the last message."""
    parts = message("system", rng.choice(SYSTEM_PROMPTS)) if rng.random() < 0.2 else []
    parts += turn(rng)
    while rng.random() < 0.3:
        draw = rng.random()
        if draw < 0.3:
            parts += message("user", rng.choice(MORE)) + message("assistant", stories.tell(rng))
        elif draw < 0.5:
            parts += message("user", rng.choice(THANKS)) + message("assistant", rng.choice(YOU_ARE_WELCOME))
        else:
            parts += turn(rng)
    return [*parts, Segment(END_OF_TEXT, False, True)]


MIXTURE: dict[Callable[[Random], list[Segment]], float] = {
    raw_story: 0.5,
    asked_in_plain_text: 0.1,
    odd_beginning: 0.08,
    chat: 0.32,
}

SCRIPTS = [0x3B1, 0x430, 0x5D0, 0x627, 0x4E00, 0x3042, 0x1F600, 0xE0]
