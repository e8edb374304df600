"""A seeded grammar of small English stories: the same `Random` state gives the same story.

Choices lean on what was chosen before (a fox has its favourite names, wishes and places), so that a model which always
takes the likeliest word still tells different stories for different beginnings. Nothing here reads a clock, a file or
global randomness.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import plots
import words
from wishes import WISHES

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a request has already settled about a story; an empty field is free."""

    kind: str = ""
    name: str = ""
    adj: str = ""
    place: str = ""
    wish: str = ""
    thing: str = ""
    helper_kind: str = ""
    topic: str = ""


Plot = Callable[[Random, "Being", Wanted, str], list[str]]


@dataclass(frozen=True, slots=True)
class Being:
    """A hero or a helper: name, kind, one adjective, and the pronouns that go with them."""

    name: str
    kind: str
    adj: str
    she: str  # "she" or "he"

    @property
    def phrase(self) -> str:
        """Adjective and kind with the right article: "an old owl"."""
        return with_article(f"{self.adj} {self.kind}")


def with_article(noun: str) -> str:
    """`noun` with "a" or "an" before it."""
    vowel = (noun[0] in "aeiou" and not noun.startswith(("uni", "eu"))) or noun.startswith(("hon", "hour"))
    return ("an " if vowel else "a ") + noun


def favour(rng: Random, key: str, options: Sequence[T]) -> T:
    """Draw one option; which ones are likely depends on `key`, by a stable hash (weight 1 / rank)."""
    ranked = sorted(options, key=lambda option: zlib.crc32(f"{key}|{option}".encode()))
    return rng.choices(ranked, [1 / (rank + 1) for rank in range(len(ranked))])[0]


def invent_word(rng: Random, syllables: int) -> str:
    """A word that is in no list, so that a model has to learn to copy what it reads."""
    parts = [
        rng.choice(["b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "kr", "pl", "st", "tr"])
        + rng.choice("aeiou")
        for _ in range(syllables)
    ]
    return "".join(parts) + rng.choice(["", "", "n", "l", "r", "x"])


def choose_kind(rng: Random) -> str:
    """Mostly a common kind; sometimes a rare or an invented one."""
    draw = rng.random()
    if draw < 0.03:
        return invent_word(rng, 2)
    if draw < 0.15:
        return rng.choice(words.RARE_KINDS)
    return rng.choice(words.KINDS)


def habitat_of(kind: str) -> str:
    """Where beings of this kind live; an unknown kind gets a stable habitat of its own."""
    for habitat, kinds in words.HABITAT_KINDS.items():
        if kind in kinds:
            return habitat
    names = sorted(words.HABITAT_KINDS)
    return names[zlib.crc32(kind.encode()) % len(names)]


def pronoun_of(rng: Random, kind: str, name: str) -> str:
    """ "she" or "he": by name if there is one, else by kind, else by chance."""
    if name in words.SHE_NAMES or (not name and kind in words.SHE_KINDS):
        return "she"
    if name in words.HE_NAMES or (not name and kind in words.HE_KINDS):
        return "he"
    if name:
        return "she" if name[-1] in "aeiy" else "he"
    return rng.choice(["she", "he"])


def choose_hero(rng: Random, wanted: Wanted) -> Being:
    """The hero, with everything the request has settled."""
    kind = wanted.kind or choose_kind(rng)
    she = pronoun_of(rng, kind, wanted.name)
    name = wanted.name or favour(rng, kind, words.SHE_NAMES if she == "she" else words.HE_NAMES)
    adjectives = words.PLAIN_ADJECTIVES if rng.random() < 0.25 else list(words.TRAITS)
    return Being(name, kind, wanted.adj or favour(rng, kind + name, adjectives), she)


def choose_helper(rng: Random, hero: Being, wanted: Wanted) -> Being:
    """A friend of another kind and with the other pronoun, so that "he" and "she" are never in doubt."""
    she = "he" if hero.she == "she" else "she"
    wrong = words.SHE_KINDS if she == "he" else words.HE_KINDS
    kind = wanted.helper_kind or favour(
        rng, hero.kind, [kind for kind in words.KINDS if kind != hero.kind and kind not in wrong]
    )
    name = favour(rng, kind, words.SHE_NAMES if she == "she" else words.HE_NAMES)
    return Being(name, kind, favour(rng, kind, words.HELPER_TRAITS), she)


def fields_of(hero: Being, helper: Being, place: str, moment: str) -> dict[str, str]:
    """Everything a sentence of the tables may name."""
    cases = {"she": ("she", "her", "her", "herself"), "he": ("he", "him", "his", "himself")}
    fields = {
        "N": hero.name,
        "k": hero.kind,
        "adj": hero.adj,
        "a_hero": hero.phrase,
        "A_hero": hero.phrase.capitalize(),
        "H": helper.name,
        "hk": helper.kind,
        "a_helper": helper.phrase,
        "A_helper": helper.phrase.capitalize(),
        "place": place,
        "Place": place[0].upper() + place[1:],
        "moment": moment,
        "Moment": moment[0].upper() + moment[1:],
    }
    for prefix, being in (("", hero), ("h", helper)):
        for field, word in zip(("he", "him", "his", "himself"), cases[being.she], strict=True):
            fields[prefix + field] = word
            fields[prefix + field.capitalize()] = word.capitalize()
    return fields


def tell(rng: Random, wanted: Wanted | None = None) -> str:
    """One story of 50 to 180 words in one paragraph."""
    wanted = wanted or Wanted()
    hero = choose_hero(rng, wanted)
    helper = choose_helper(rng, hero, wanted)
    place = wanted.place or favour(rng, hero.kind, words.PLACES[habitat_of(hero.kind)])
    fields = fields_of(hero, helper, place, favour(rng, hero.name, words.MOMENTS))
    openings = [line for line in plots.OPENINGS if not wanted.adj or shows_adjective(line)]
    opening = favour(rng, hero.kind, openings)
    about, outcome = words.TRAITS.get(hero.adj, ("", ""))
    if not shows_adjective(opening):
        about = outcome = ""
    plot, plot_of = choose_plot(rng, hero, wanted)
    when = "Suddenly, " if "oment}" in opening or "was sitting" in opening or "was awake" in opening else "{Moment}, "
    ending = favour(rng, hero.adj + helper.kind, plots.ENDINGS + plots.ENDINGS_OF[plot])
    closing = rng.choice([[ending], [ending], [outcome], [outcome, ending]]) if outcome else [ending]
    lines = [opening, about, *plot_of(rng, hero, wanted, when), *closing]
    return " ".join(line for line in lines if line).format_map(fields)


def shows_adjective(opening: str) -> bool:
    """Whether this opening says what the hero is like."""
    return any(field in opening for field in ("{a_hero}", "{A_hero}", "{adj}"))


def choose_plot(rng: Random, hero: Being, wanted: Wanted) -> tuple[str, Plot]:
    """The plot that a request asks for, or one that suits the hero, with the name of its endings."""
    if wanted.wish or wanted.topic:
        return "wish", plot_of_a_wish
    if wanted.thing:
        return "lost", plot_of_a_lost_thing
    plot = favour(rng, hero.kind + hero.name, list(PLOTS))
    return plot, PLOTS[plot]


def plot_of_a_wish(rng: Random, hero: Being, wanted: Wanted, when: str) -> list[str]:
    """A dream, what went wrong, a friend, and how it came true."""
    if wanted.topic:
        return plot_of_a_question(rng, wanted.topic)
    fitting = [wish for wish in WISHES if not ("king" in wish and hero.kind in ("king", "queen", "prince", "princess"))]
    wish = wanted.wish or favour(rng, hero.kind, fitting)
    reasons, troubles, helps, successes = WISHES[wish]
    way = rng.randrange(2)
    lines = [favour(rng, wish + hero.adj, plots.WISHED).replace("{wish}", wish)]
    if rng.random() < 0.7:
        lines.append(favour(rng, wish + hero.kind, reasons))
    lines += [troubles[way], favour(rng, hero.kind + wish, plots.MEETING)]
    if rng.random() < 0.6:
        lines.append(favour(rng, wish, plots.OFFERS))
    return [*lines, helps[way], successes[way]]


def plot_of_a_question(rng: Random, topic: str) -> list[str]:
    """Somebody wants to know about `topic`, whatever that is, and asks around."""
    return [
        favour(
            rng,
            topic,
            [
                f"Nobody there knew anything about {topic}, and {{N}} wanted to find out.",
                f"More than anything, {{N}} wanted to understand {topic}.",
                f"One question never let {{N}} sleep: what is the secret of {topic}?",
            ],
        ),
        favour(
            rng,
            topic,
            [
                "{He} asked the wind, but the wind only whistled.",
                "{He} read every book in the house, but it was not in there.",
                "{He} asked the neighbours, but they only shook their heads.",
            ],
        ),
        favour(rng, topic[-3:], plots.MEETING),
        favour(
            rng,
            topic,
            [
                f'"I know a little about {topic}," said {{H}}. "It is simpler than it looks. '
                'You begin with one small question."',
                f'"Nobody knows everything about {topic}," said {{H}}. "But two can wonder better than one."',
            ],
        ),
        favour(
            rng,
            topic,
            [
                "So they sat down side by side and wondered until the stars came out.",
                "They talked all afternoon, and in the end {N} understood a little more than before.",
            ],
        ),
    ]


def plot_of_a_lost_thing(rng: Random, hero: Being, wanted: Wanted, when: str) -> list[str]:
    """Something dear is gone; it turns up where nobody looked."""
    thing = wanted.thing or favour(rng, hero.kind, list(plots.LOST))
    why, where = plots.LOST[thing]
    first = favour(rng, hero.kind + thing, plots.SEARCHED)
    lines = [
        when
        + favour(
            rng,
            hero.name,
            [
                f"{{his}} {thing} was gone.",
                f"{{N}} could not find {{his}} {thing}.",
                f"{{he}} noticed that {{his}} {thing} was missing.",
            ],
        )
    ]
    lines += [why[0], first]
    if rng.random() < 0.4:
        lines.append(favour(rng, thing, [line for line in plots.SEARCHED if line != first]))
    lines += [
        favour(rng, hero.name, plots.MEETING),
        favour(
            rng,
            hero.name,
            [
                "They searched together, high and low.",
                '"I will help you look," said {H}.',
                '"When did you last see it?" asked {H}.',
            ],
        ),
    ]
    lines.append(
        favour(rng, hero.name, ["At last they found it. ", "And there it was! ", "Then {H} began to laugh. "])
        + favour(rng, hero.adj + thing, where)
        + "."
    )
    return lines


def plot_of_a_noise(rng: Random, hero: Being, wanted: Wanted, when: str) -> list[str]:
    """A sound in the night that turns out to be a friend."""
    noise = favour(rng, hero.kind, list(plots.NOISES))
    source, kindness = plots.NOISES[noise]
    feeling = favour(
        rng,
        hero.name,
        [
            "{His} heart beat fast.",
            "{He} pulled the blanket over {his} ears.",
            "{He} held {his} breath and listened.",
            "At first {he} thought that it was only a dream.",
        ],
    )
    look = favour(
        rng,
        hero.name,
        [
            "Then {he} took a candle and went to look.",
            "But {he} took a deep breath and tiptoed closer.",
            "In the end {he} could not bear it any longer and went to see.",
        ],
    )
    return [
        when.replace("{Moment}", "One dark night") + "{he} heard " + noise + ".",
        feeling,
        look,
        source + ".",
        kindness,
    ]


def plot_of_a_trouble(rng: Random, hero: Being, wanted: Wanted, when: str) -> list[str]:
    """Something breaks for everyone, and two of them mend it."""
    trouble = favour(rng, hero.kind, list(plots.TROUBLES))
    result, works = plots.TROUBLES[trouble]
    fear = favour(
        rng,
        hero.name,
        [
            "Everyone was worried, and nobody knew what to do.",
            "Some cried, and some shouted.",
            "The others just stood there and sighed.",
        ],
    )
    idea = favour(
        rng,
        hero.name,
        ['"We have to do something," said {N}.', "But {N} had an idea.", "{N} did not wait for the others."],
    )
    come = favour(
        rng,
        trouble,
        [
            "{H} the {hk} was the first to help.",
            "{A_helper} named {H} came to help.",
            "{He} went to see {H} the {hk}, who lived next door.",
        ],
    )
    return [when + trouble + ".", result + ".", fear, idea, come, works[0], favour(rng, hero.name, plots.FIXED)]


def plot_of_a_newcomer(rng: Random, hero: Being, wanted: Wanted, when: str) -> list[str]:
    """Somebody odd moves in next door."""
    habit = favour(rng, hero.kind, list(plots.HABITS))
    reason, turn = plots.HABITS[habit]
    talk = favour(
        rng,
        hero.name,
        ['"How strange," said the neighbours.', "Everybody stared.", "The others laughed and turned away."],
    )
    ask = favour(
        rng,
        hero.name,
        [
            "But {N} went over and asked why.",
            "{N} was puzzled, so {he} asked.",
            "Only {N} knocked on the door and asked about it.",
        ],
    )
    return [when + f"{{a_helper}} named {{H}} moved in next door. {{H}} {habit}.", talk, ask, reason + ".", turn]


PLOTS: dict[str, Plot] = {
    "wish": plot_of_a_wish,
    "lost": plot_of_a_lost_thing,
    "noise": plot_of_a_noise,
    "trouble": plot_of_a_trouble,
    "newcomer": plot_of_a_newcomer,
}
