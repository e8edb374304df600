"""Who, where and what: the word lists of the story grammar. Data only; `stories.py` holds the rules.

Sentences name their fields: `{N}` is the hero's name, `{k}` the kind, `{he} {him} {his} {He} {His}` the pronouns;
`{H} {hk} {hhe} {hhim} {hhis} {hHe}` are the same of the helper, and `{place}` is a phrase with its preposition.
"""

from __future__ import annotations


def listed(text: str) -> list[str]:
    """The words of a block of text."""
    return text.split()


def phrases(text: str) -> list[str]:
    """The phrases of a block of text, which commas separate."""
    return [" ".join(phrase.split()) for phrase in text.split(",")]


SHE_NAMES = listed(
    """
    Mira Lily Rosa Luna Ada Nora Ivy Hazel Clara Maya Tessa Willa Poppy Stella Olive Emma Greta Zoe Bella Daisy Ella
    Freya Ruby Wanda Juno Pia Nina Lucy Anna Sofia Mia Alice Sara Julia Amber Fern Kira Lena Molly Penny Ruth Tilda Una
    Vera Yara Zelda Grace Holly Jane Kate Laura Marta Nelly Opal Petra Rita Tara Iris Elsa Dora Cora
    """
)

HE_NAMES = listed(
    """
    Tom Max Oscar Felix Hugo Leo Finn Otto Milo Jasper Bruno Arlo Theo Sam Ben Gus Oliver Rufus Walter Henry Pip Ned
    Barnaby Emil Jack Tim Noah Luke Adam Alfie Basil Casper Dan Edgar Frank George Harry Ivan Jonas Karl Louis Martin
    Nico Omar Paul Quinn Ralph Simon Toby Victor Wilbur Yuri Zack Bob Anton Boris Dylan Erik Fred
    """
)

HABITAT_KINDS = {
    "forest": listed("fox bear rabbit hedgehog squirrel owl deer badger wolf mole mouse raccoon beaver"),
    "water": listed("turtle frog otter duck crab seal penguin swan"),
    "farm": listed("cat dog hen goat pig donkey horse sheep cow puppy kitten goose"),
    "wide": listed("elephant lion tiger giraffe monkey camel llama zebra parrot kangaroo panda"),
    "town": listed(
        """
        girl boy baker sailor gardener princess prince king queen wizard witch farmer clockmaker knight painter teacher
        child
        """
    ),
    "far": listed("robot dragon giant ghost unicorn snowman astronaut gnome elf troll fairy"),
}
KINDS = [kind for kinds in HABITAT_KINDS.values() for kind in kinds]

RARE_KINDS = listed(
    """
    pirate ninja platypus dinosaur chicken spider snake bee ant butterfly dolphin whale rat lizard moose koala sloth
    walrus goldfish cactus toaster teapot train tractor tree cloud star shoe sandwich vampire zombie mermaid superhero
    detective doctor nurse engineer programmer scientist soldier emperor monk poet musician dancer postman blacksmith
    miller hunter librarian computer tortoise hamster crow raven eagle hawk sparrow peacock rhino hippo leopard cheetah
    gorilla bat lobster octopus jellyfish shark lynx pony lamb calf duckling dwarf goblin ogre phoenix griffin yeti
    alien scarecrow captain fisherman shepherd tailor grandmother spaceship boat
    """
)

SHE_KINDS = frozenset(listed("girl princess queen witch hen cow mermaid grandmother"))
HE_KINDS = frozenset(listed("boy prince king wizard emperor monk postman fisherman"))

PLACES = {
    "forest": [
        "in a quiet forest",
        "under the roots of an old oak tree",
        "at the edge of a dark wood",
        "in a hollow log beside a stream",
        "on a hill covered with ferns",
        "deep in the green woods",
        "in a small den under the pines",
        "near a clearing full of bluebells",
    ],
    "water": [
        "by a wide blue lake",
        "on the bank of a slow river",
        "at the edge of a reedy pond",
        "on a rocky shore",
        "on a small island",
        "near the old harbour",
        "beside a silver stream",
        "in a cove where the water was always warm",
    ],
    "farm": [
        "on a small farm",
        "in a red barn on a hill",
        "behind an old stone house",
        "in a yard full of sunflowers",
        "at the end of a long country lane",
        "next to a windmill",
        "in a sunny meadow",
        "beside a field of golden wheat",
    ],
    "wide": [
        "in a warm and faraway land",
        "at the edge of a great desert",
        "on a wide grassy plain",
        "in a jungle full of flowers",
        "near a waterfall",
        "under a very tall palm tree",
        "in a valley between two mountains",
        "in a garden behind high walls",
    ],
    "town": [
        "in a little village",
        "in a house with a blue door",
        "in a town by the sea",
        "in a tall tower",
        "on a narrow street",
        "in a cottage at the foot of a mountain",
        "above a bakery",
        "in a city full of bridges",
    ],
    "far": [
        "on top of a snowy mountain",
        "in a cave behind the moonlit hills",
        "in a forgotten castle",
        "at the end of the world",
        "in an empty lighthouse",
        "in a workshop full of clocks",
        "on the far side of the northern hills",
        "in a valley of mist",
    ],
}

# by adjective: a sentence about it, and how it turned out to be good in the end
TRAITS = {
    "brave": (
        "{He} was not afraid of the dark, and hardly afraid of thunder.",
        "It had taken a brave heart, and {N} had one.",
    ),
    "shy": ("{He} hardly ever spoke to anyone.", "{N} was still a little shy, but not with {H}."),
    "curious": (
        "{He} asked more questions in a day than others ask in a year.",
        "And of course {N} already had a new question.",
    ),
    "clumsy": (
        "{He} tripped over {his} own feet at least twice a day.",
        "{N} tripped on the way home, and they both laughed.",
    ),
    "tiny": ("{He} was so small that {he} slept in a teacup.", "{N} was still tiny, but {he} felt as tall as a tree."),
    "sleepy": ("{He} could fall asleep anywhere, even standing up.", "Then {N} yawned and slept until noon."),
    "hungry": ("{He} thought about supper from morning to night.", "Best of all, there was a big supper afterwards."),
    "proud": ("{He} never liked to ask for help.", "{N} had learned that asking for help is nothing to be ashamed of."),
    "gentle": (
        "{He} never stepped on a flower, not even by accident.",
        "Everyone agreed that a gentle heart finds a way.",
    ),
    "lonely": ("Most days, {he} had nobody to talk to.", "{N} was never lonely again."),
    "clever": ("{He} could solve any riddle before breakfast.", "Even a clever {k} needs a friend, thought {N}."),
    "cheerful": ("{He} whistled all day long, even in the rain.", "{N} whistled all the way home."),
    "grumpy": ("{He} did not like mornings, or noise, or soup.", "And for the first time in years, {N} smiled."),
    "patient": ("{He} could wait a whole day without a single sigh.", "Good things come to those who wait, said {N}."),
    "forgetful": ("{He} often forgot what day it was.", "{N} forgot many things, but {he} never forgot that day."),
    "young": (
        "{He} was still learning how the world works.",
        "{N} felt a little older and a little wiser that evening.",
    ),
    "old": ("{He} had seen more winters than anyone could count.", "One is never too old for something new, said {N}."),
    "honest": (
        "{He} always told the truth, even when it was hard.",
        "And every word of it is true, for {N} never told a lie.",
    ),
    "busy": ("{He} was always in a hurry.", "From then on, {N} hurried a little less."),
    "dreamy": (
        "{He} spent whole afternoons looking at the clouds.",
        "Some dreams, thought {N}, only need a friend to come true.",
    ),
}

# adjectives that promise nothing
PLAIN_ADJECTIVES = listed(
    """
    little big small happy sad lazy magic lost golden poor rich beautiful strange friendly wise noisy funny good famous
    tired invisible polite
    """
)

HELPER_TRAITS = listed("old wise friendly kind young funny quiet strong jolly small")

MOMENTS = phrases(
    """
    one morning, one day, one windy afternoon, one cold evening, one spring day, early one morning, one rainy day, at
    the end of summer, on the first day of autumn, one bright winter morning, one night, late one evening
    """
)

TOPICS = phrases(
    """
    quantum computing, the moon, the sea, the weather, music, mathematics, computers, dinosaurs, gravity, history,
    cooking, electricity, the stars, volcanoes, trains, chess, bees, snow, poetry, programming, language models,
    graphics cards, networks, clouds, philosophy, football, medicine, the ocean, rainbows, bread, maps, magnets, time,
    dreams, the human heart, space travel, black holes, coffee, law, money, machines, distant cities, the alphabet, art,
    whales, the desert, engines, love, friendship, winter, tea, numbers, science, the brain, democracy, photosynthesis,
    databases
    """
)

# for text that makes no sense
COMMON_WORDS = listed(
    """
    the of and to in is that it for was on are as with they be at one have this from by hot but what some we can out
    other were all there when up use your how said an each which their time will way about many then them would write
    like so these her long make thing see him two has look more day could go come did my sound no most number who over
    know water than call first people may down side been now find any new work part take get place made live where after
    back little only round man year came show every good me give our under name very through just form much great think
    say help low line before turn cause same mean differ move right boy old too does tell sentence set three want air
    well also play small end put home read hand port large spell add even land here must big high such follow act why
    ask men change went light kind off need house picture try us again animal point mother world near build self earth
    father capital answer meaning France life quick brown jumps function return import class value error file server
    question second money policy machine
    """
)
