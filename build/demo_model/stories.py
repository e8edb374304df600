"""A seeded grammar of small English stories: the same `Random` state gives the same story.

Half of all choices follow the hero's kind (a fox has its favourite name, plot and place) and the rest are free. A
model that always takes the likeliest word can learn that, so it tells different stories for different beginnings. Only
the hero has a name, so that there is one name to copy. Nothing here reads a clock, a file or global randomness.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import TypeVar

import plots
import words
from wishes import WISHES

T = TypeVar("T")

FAVOURITE_SHARE = 0.5
PLOT_STRIDE = 5  # neighbours in the list of kinds get plots of different sorts; coprime to the number of plots


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


@dataclass(frozen=True, slots=True)
class Being:
    """A hero or a helper: kind, one adjective or none, a pronoun; a helper has no name."""

    name: str
    kind: str
    adj: str
    she: str  # "she" or "he"

    @property
    def phrase(self) -> str:
        """Adjective and kind with the right article: "an old owl"."""
        return with_article(f"{self.adj} {self.kind}".strip())


def with_article(noun: str) -> str:
    """`noun` with "a" or "an" before it."""
    vowel = (noun[0] in "aeiou" and not noun.startswith(("uni", "eu"))) or noun.startswith(("hon", "hour"))
    return ("an " if vowel else "a ") + noun


def favour(rng: Random, number: int, options: Sequence[T]) -> T:
    """Half the time the option that `number` points at (modulo their count), otherwise any."""
    return options[number % len(options)] if rng.random() < FAVOURITE_SHARE else rng.choice(options)


def number_of(kind: str) -> int:
    """What a kind's favourites follow from: its place in the list, or a stable hash for one that is in no list."""
    return words.KINDS.index(kind) if kind in words.KINDS else zlib.crc32(kind.encode()) % 1000


def habitat_of(kind: str) -> str:
    """Where beings of this kind live; an unknown kind gets a stable habitat of its own."""
    for habitat, kinds in words.HABITAT_KINDS.items():
        if kind in kinds:
            return habitat
    return sorted(words.HABITAT_KINDS)[number_of(kind) % len(words.HABITAT_KINDS)]


def choose_name(rng: Random, kind: str) -> str:
    """A listed name that goes with the kind."""
    if kind in words.SHE_KINDS:
        return favour(rng, number_of(kind), words.SHE_NAMES)
    if kind in words.HE_KINDS:
        return favour(rng, number_of(kind), words.HE_NAMES)
    return favour(rng, number_of(kind), words.NAMES)


def pronoun_of(name: str) -> str:
    """ "she" or "he": by list, or by the last letter of a name that is in none."""
    if name in words.NAMES:
        return "she" if name in words.SHE_NAMES else "he"
    return "she" if name[-1] in "aeiy" else "he"


def choose_hero(rng: Random, wanted: Wanted) -> Being:
    """The hero, with everything the request has settled."""
    kind = wanted.kind or rng.choice(words.KINDS)
    name = wanted.name or choose_name(rng, kind)
    draw = rng.random()
    adj = favour(rng, number_of(kind), list(words.TRAITS)) if draw < 0.6 else ""
    if draw > 0.85:
        adj = rng.choice(words.PLAIN_ADJECTIVES)
    return Being(name, kind, wanted.adj or adj, pronoun_of(name))


def choose_helper(rng: Random, hero: Being, wanted: Wanted) -> Being:
    """A friend of another kind and with the other pronoun, so that "he" and "she" are never in doubt."""
    others = [kind for kind in words.HELPER_KINDS if kind != hero.kind]
    kind = wanted.helper_kind or favour(rng, 3 * number_of(hero.kind), others)
    adj = favour(rng, words.HELPER_KINDS.index(kind), words.HELPER_TRAITS)
    return Being("", kind, adj, "he" if hero.she == "she" else "she")


def fields_of(hero: Being, helper: Being, place: str, moment: str) -> dict[str, str]:
    """Everything a sentence of the tables may name."""
    cases = {"she": ("she", "her", "her", "herself"), "he": ("he", "him", "his", "himself")}
    fields = {
        "N": hero.name,
        "k": hero.kind,
        "adj": hero.adj,
        "a_hero": hero.phrase,
        "H": f"the {helper.kind}",
        "hk": helper.kind,
        "a_helper": helper.phrase,
        "place": place,
        "moment": moment,
    }
    for prefix, being in (("", hero), ("h", helper)):
        for field, word in zip(("he", "him", "his", "himself"), cases[being.she], strict=True):
            fields[prefix + field] = word
    return fields


def sentence(template: str, fields: dict[str, str]) -> str:
    """The filled template, every sentence in it with its capital."""
    filled = template.format_map(fields)
    return re.sub(r"(^|[.!?] )([a-z])", lambda found: found[1] + found[2].upper(), filled)


def tell(rng: Random, wanted: Wanted | None = None) -> str:
    """One story of 40 to 150 words in one paragraph."""
    wanted = wanted or Wanted()
    hero = choose_hero(rng, wanted)
    helper = choose_helper(rng, hero, wanted)
    number = number_of(hero.kind)
    place = wanted.place or favour(rng, number, words.PLACES[habitat_of(hero.kind)])
    opening = favour(rng, number, plots.OPENINGS)
    while (wanted.adj and not shows_adjective(opening)) or (not hero.adj and "{adj}" in opening):
        opening = rng.choice(plots.OPENINGS)
    about, outcome = words.TRAITS.get(hero.adj, ("", "")) if shows_adjective(opening) else ("", "")
    plot = choose_plot(rng, number, wanted)
    ending = favour(rng, number, plots.ENDINGS + plots.ENDINGS_OF[plot.sort])
    closing = rng.choice([[ending], [ending], [outcome], [outcome, ending]]) if outcome else [ending]
    when = "suddenly, " if any(mark in opening for mark in ("{moment}", "sitting", "day,")) else "{moment}, "
    lines = [opening, about, *SORTS[plot.sort](rng, number, plot.key, when), *closing]
    fields = fields_of(hero, helper, place, favour(rng, number, words.MOMENTS))
    return " ".join(sentence(line, fields) for line in lines if line)


def shows_adjective(opening: str) -> bool:
    """Whether this opening says what the hero is like."""
    return "{a_hero}" in opening or "{adj}" in opening


@dataclass(frozen=True, slots=True)
class Plot:
    """One thing that can happen: the table it is in, and its key there."""

    sort: str
    key: str


PLOTS = [
    Plot(sort, key)
    for sort, table in (
        ("wish", WISHES),
        ("lost", plots.LOST),
        ("noise", plots.NOISES),
        ("trouble", plots.TROUBLES),
        ("newcomer", plots.HABITS),
    )
    for key in table
]


def choose_plot(rng: Random, number: int, wanted: Wanted) -> Plot:
    """The plot that a request asks for, or one that suits the hero."""
    if wanted.wish:
        return Plot("wish", wanted.wish)
    if wanted.thing:
        return Plot("lost", wanted.thing)
    return favour(rng, number * PLOT_STRIDE, PLOTS)


def plot_of_a_wish(rng: Random, number: int, wish: str, when: str) -> list[str]:
    """A dream, what went wrong, a friend, and how it came true."""
    reasons, troubles, helps, successes = WISHES[wish]
    way = favour(rng, number, (0, 1))
    lines = [favour(rng, number, plots.WISHED).replace("{wish}", wish)]
    if rng.random() < 0.6:
        lines.append(favour(rng, number, reasons))
    lines += [troubles[way], favour(rng, number, plots.MEETING)]
    if rng.random() < 0.6:
        lines.append(favour(rng, number, plots.OFFERS))
    return [*lines, helps[way], successes[way]]


def plot_of_a_lost_thing(rng: Random, number: int, thing: str, when: str) -> list[str]:
    """Something dear is gone; it turns up where nobody looked."""
    why, where = plots.LOST[thing]
    return [
        when + favour(rng, number, plots.GONE).replace("{thing}", thing),
        why[0],
        favour(rng, number, plots.SEARCHED),
        favour(rng, number, plots.MEETING),
        favour(rng, number, plots.SEARCHED_TOGETHER),
        favour(rng, number, plots.FOUND) + " " + favour(rng, number, where) + ".",
    ]


def plot_of_a_noise(rng: Random, number: int, noise: str, when: str) -> list[str]:
    """A sound in the night that turns out to be a friend."""
    source, kindness = plots.NOISES[noise]
    return [
        when.replace("{moment}", "one dark night") + "{N} heard " + noise + ".",
        favour(rng, number, plots.FRIGHTENED),
        favour(rng, number, plots.LOOKED),
        source + ".",
        kindness,
    ]


def plot_of_a_trouble(rng: Random, number: int, trouble: str, when: str) -> list[str]:
    """Something breaks for everyone, and two of them mend it."""
    result, works = plots.TROUBLES[trouble]
    return [
        when + trouble + ".",
        result + ".",
        favour(rng, number, plots.WORRIED),
        favour(rng, number, plots.DECIDED),
        favour(rng, number, plots.JOINED),
        works[0],
        favour(rng, number, plots.FIXED),
    ]


def plot_of_a_newcomer(rng: Random, number: int, habit: str, when: str) -> list[str]:
    """Somebody odd moves in next door."""
    reason, turn = plots.HABITS[habit]
    return [
        when + f"{{a_helper}} moved in next door. {{H}} {habit}.",
        favour(rng, number, plots.STARED),
        favour(rng, number, plots.ASKED),
        reason + ".",
        turn,
    ]


SORTS: dict[str, Callable[[Random, int, str, str], list[str]]] = {
    "wish": plot_of_a_wish,
    "lost": plot_of_a_lost_thing,
    "noise": plot_of_a_noise,
    "trouble": plot_of_a_trouble,
    "newcomer": plot_of_a_newcomer,
}
