"""Who, where and what: the word lists of the story grammar. Data only; `stories.py` holds the rules.

Sentences name their fields: `{N}` is the hero's name, `{k}` the kind, `{he} {him} {his} {himself}` the pronouns; `{H}`
is the helper ("the owl"), `{a_helper}` the helper met for the first time ("an old owl"), `{hhe} {hhim} {hhis}` the
helper's pronouns, and `{place}` a phrase with its preposition. `stories.py` sets the capitals.
"""

from __future__ import annotations


def listed(text: str) -> list[str]:
    """The words of a block of text."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of a block of text, which commas separate."""
    return [" ".join(phrase.split()) for phrase in text.split(",")]


SHE_NAMES = listed(
    "Mira Lily Rosa Luna Nora Ivy Hazel Clara Maya Poppy Stella Emma Zoe Bella Daisy Ella Ruby Nina Lucy Anna"
)
HE_NAMES = listed("Tom Max Oscar Felix Hugo Leo Finn Otto Milo Bruno Theo Sam Ben Gus Oliver Pip Ned Jack Tim Noah")
NAMES = [name for pair in zip(SHE_NAMES, HE_NAMES, strict=True) for name in pair]

# met in requests only, so that the model learns to copy what is in no list
RARE_NAMES = listed(
    """
    Alice Sara Julia Amber Fern Molly Penny Ruth Vera Zelda Grace Holly Kate Laura Nelly Petra Rita Tara Iris Dora Cora
    Rufus Walter Henry Barnaby Emil Luke Adam Alfie Basil Dan Edgar Frank George Harry Ivan Karl Louis Martin Nico Omar
    Paul Ralph Simon Toby Victor Wilbur Bob Boris Dylan Erik Fred Beep Bolt Pixel Momo Kiki Bobo Zorblax Frodo
    """
)

HABITAT_KINDS = {
    "forest": listed("fox bear rabbit hedgehog owl mouse wolf squirrel"),
    "water": listed("turtle frog duck penguin"),
    "farm": listed("cat dog pig horse sheep"),
    "wide": listed("lion elephant monkey llama"),
    "town": listed("girl boy princess king wizard knight"),
    "far": listed("robot dragon giant ghost pirate unicorn"),
}
KINDS = [kind for kinds in HABITAT_KINDS.values() for kind in kinds]

# met in requests only
RARE_KINDS = listed(
    """
    ninja dinosaur chicken spider snake bee ant whale rat tiger octopus crab goose hen goat cow donkey camel panda
    parrot deer badger otter seal swan beaver queen prince witch farmer baker sailor teacher snowman fairy elf troll
    gnome doctor poet cloud star train teapot computer engineer
    """
)

SHE_KINDS = frozenset(listed("girl princess queen witch hen cow"))
HE_KINDS = frozenset(listed("boy prince king wizard"))

PLACES = {
    "forest": [
        "in a quiet forest",
        "under the roots of an old oak tree",
        "at the edge of a dark wood",
        "on a hill covered with ferns",
        "deep in the green woods",
    ],
    "water": [
        "by a wide blue lake",
        "on the bank of a slow river",
        "on a small island",
        "near the old harbour",
    ],
    "farm": [
        "on a small farm",
        "in a red barn on a hill",
        "behind an old stone house",
        "next to a windmill",
        "in a sunny meadow",
    ],
    "wide": [
        "in a warm and faraway land",
        "on a wide grassy plain",
        "in a jungle full of flowers",
        "under a very tall palm tree",
    ],
    "town": [
        "in a little village",
        "in a house with a blue door",
        "in a town by the sea",
        "in a tall tower",
        "in a city full of bridges",
    ],
    "far": [
        "on top of a snowy mountain",
        "in a cave behind the moonlit hills",
        "in a forgotten castle",
        "in an empty lighthouse",
        "in a valley of mist",
    ],
}

# by adjective: a sentence about it, and how it turned out to be good in the end
TRAITS = {
    "brave": (
        "{he} was not afraid of the dark, and hardly afraid of thunder.",
        "it had taken a brave heart, and {N} had one.",
    ),
    "shy": ("{he} hardly ever spoke to anyone.", "{N} was still a little shy, but not with {H}."),
    "curious": (
        "{he} asked more questions in a day than others ask in a year.",
        "and of course {N} already had a new question.",
    ),
    "clumsy": (
        "{he} tripped over {his} own feet at least twice a day.",
        "{N} tripped on the way home, and they both laughed.",
    ),
    "tiny": ("{he} was so small that {he} slept in a teacup.", "{N} was still tiny, but {he} felt as tall as a tree."),
    "sleepy": ("{he} could fall asleep anywhere, even standing up.", "then {N} yawned and slept until noon."),
    "hungry": ("{he} thought about supper from morning to night.", "best of all, there was a big supper afterwards."),
    "proud": ("{he} never liked to ask for help.", "{N} had learned that asking for help is nothing to be ashamed of."),
    "gentle": (
        "{he} never stepped on a flower, not even by accident.",
        "everyone agreed that a gentle heart finds a way.",
    ),
    "lonely": ("most days, {he} had nobody to talk to.", "{N} was never lonely again."),
    "clever": ("{he} could solve any riddle before breakfast.", "even a clever {k} needs a friend, thought {N}."),
    "cheerful": ("{he} whistled all day long, even in the rain.", "{N} whistled all the way home."),
    "grumpy": ("{he} did not like mornings, or noise, or soup.", "and for the first time in years, {N} smiled."),
    "patient": ("{he} could wait a whole day without a single sigh.", "good things come to those who wait, said {N}."),
    "forgetful": ("{he} often forgot what day it was.", "{N} forgot many things, but {he} never forgot that day."),
    "young": (
        "{he} was still learning how the world works.",
        "{N} felt a little older and a little wiser that evening.",
    ),
    "old": ("{he} had seen more winters than anyone could count.", "one is never too old for something new, said {N}."),
    "honest": (
        "{he} always told the truth, even when it was hard.",
        "and every word of it is true, for {N} never told a lie.",
    ),
    "busy": ("{he} was always in a hurry.", "from then on, {N} hurried a little less."),
    "dreamy": (
        "{he} spent whole afternoons looking at the clouds.",
        "some dreams, thought {N}, only need a friend to come true.",
    ),
}

# adjectives that promise nothing
PLAIN_ADJECTIVES = listed("little big small happy sad lazy magic lost kind friendly wise funny")

HELPER_TRAITS = listed("old wise friendly kind young funny quiet strong")
HELPER_KINDS = listed(
    """
    owl fox bear rabbit hedgehog mouse wolf squirrel turtle frog duck penguin cat dog pig horse sheep lion elephant
    monkey
    """
)

MOMENTS = phrases(
    """
    one morning, one day, one windy afternoon, one cold evening, one spring day, one rainy day, at the end of summer,
    one bright winter morning
    """
)

TOPICS = phrases(
    """
    quantum computing, the moon, the sea, the weather, music, mathematics, computers, gravity, history, cooking,
    electricity, the stars, trains, chess, snow, poetry, programming, language models, graphics cards, networks, clouds,
    football, medicine, rainbows, bread, time, space travel, black holes, coffee, law, money, the meaning of life, art,
    love, friendship, winter, tea, numbers, science, the brain, democracy, GPU computing, databases
    """
)

# for text that makes no sense
COMMON_WORDS = listed(
    """
    the of and to in is that it for was on are as with they be at one have this from by hot but what some we can out
    other were all there when up use your how said an each which their time will way about many then them would write
    like so these her long make thing see him two has look more day could go come did my sound no most number who over
    know water than call first people may down side been now find any new work part take get place made live where after
    back only round man year came show every good me give our under name very through just form much great think say
    help low line before turn cause same mean differ move right too does tell sentence set three want air well also play
    end put home read hand port large spell add even land here must high such follow act why ask men change went light
    off need house picture try us again animal point mother world near build self earth father capital answer France
    life quick brown jumps function return import class value error file server question second money policy machine
    """
)
