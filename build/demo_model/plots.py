"""What happens in a story: how it opens, what goes wrong, how it ends. Data only; its fields are in `words.py`."""

from __future__ import annotations

OPENINGS = [
    "Once upon a time, there was {a_hero} named {N} who lived {place}.",
    "Once there was {a_hero} called {N}. {he} lived {place}.",
    "Long, long ago, {a_hero} named {N} lived {place}.",
    "There once was {a_hero} who lived {place}. {his} name was {N}.",
    "{a_hero} named {N} lived {place}.",
    "The {adj} {k} who lived {place} was called {N}.",
    "{N} was {a_hero}. {he} lived {place}.",
    "{N} the {k} lived {place}.",
    "Once upon a time, {a_hero} named {N} lived {place}.",
    "{moment}, {N} the {k} sat {place} and thought.",
    "This is the story of {N}, {a_hero} who lived {place}.",
    "My grandmother once told me about {a_hero} named {N}, who lived {place}.",
    "Once upon a time there was {a_hero} who lived {place}. {his} name was {N}.",
    "A long time ago, {a_hero} called {N} lived {place}.",
    "Every morning, {N} the {k} woke up {place}.",
    "Last winter, {a_hero} named {N} came to live {place}.",
    "Once upon a time, {place}, there lived {a_hero} called {N}.",
    "I am going to tell you about {N} the {k}, who lived {place}.",
    "I am old now, but I still remember {N}, {a_hero} who lived {place}.",
    "Do you know {N} the {k}? {he} lived {place}.",
    "As the sun went down, {N} the {k} was sitting {place}.",
    "{place} lived {a_hero} named {N}.",
    "We all know {N}, the {adj} {k} who lived {place}.",
    "Far away, {place}, lived {a_hero} called {N}.",
    "When {N} the {k} was little, {he} lived {place}.",
    "It was a quiet day, and {N} the {k} was sitting {place}.",
    '"What a day," said {N} the {k}, who lived {place}.',
    "There was a little house {place}, and in it lived {N} the {k}.",
    "In a small house {place} lived {a_hero} named {N}.",
    "You may not know {N} the {k}, who lived {place}.",
    "Everybody knew {N} the {k}, who lived {place}.",
    "Somewhere {place}, there was {a_hero} named {N}.",
    "On a cold night, {N} the {k} was sitting awake {place}.",
]

WISHED = [
    "{N} wanted to {wish}.",
    "More than anything, {N} wanted to {wish}.",
    "{N} had one big dream: to {wish}.",
    "Every night, {N} dreamed that one day {he} would {wish}.",
]
MEETING = [
    "Just then {a_helper} came by.",
    "That was when {he} met {a_helper}.",
    "Luckily, {a_helper} was passing by.",
    "{a_helper} had seen it all.",
    '"Why so sad?" asked {a_helper}.',
    '"Can I help?" asked {a_helper}.',
]
OFFERS = [
    '"Let us try it together," said {H}.',
    '"I know what to do," said {H}.',
    '"Do not give up," said {H}.',
    '"Two heads are better than one," said {H}.',
    '"Come with me," said {H}.',
    '"That is easy," said {H} with a smile.',
]

# thing: (why it mattered, where it was in the end)
LOST: dict[str, tuple[list[str], list[str]]] = {
    "red scarf": (
        ["{his} aunt had knitted it for {him}."],
        ["A bird was sleeping in it, warm and safe", "It was tied around the neck of a snowman"],
    ),
    "silver bell": (
        ["Its sound chased away bad dreams."],
        ["It was hanging high up in an apple tree", "A magpie had carried it into its nest"],
    ),
    "golden key": (
        ["It opened the garden gate."],
        ["It was shining at the bottom of the well", "It was still in the lock, where {he} had left it"],
    ),
    "warm hat": (
        ["Without it, {his} ears were cold."],
        ["Three baby mice were sleeping in it", "The wind had put it on top of a scarecrow"],
    ),
    "music box": (
        ["It played a song that {his} mother used to sing."],
        ["It was under the bed, still playing softly", "It was on the bench by the river"],
    ),
    "lucky pebble": (
        ["It was as round as the moon."],
        ["It was lying on the path, wet and shining", "It was in the nest of a very surprised duck"],
    ),
    "green umbrella": (
        ["The clouds were already grey."],
        ["A frog was using it as a boat", "It was standing behind the door, as always"],
    ),
    "paper boat": (
        ["{he} had folded it from an old map."],
        ["It was resting among the reeds", "It had sailed all the way to the mill"],
    ),
    "little lantern": (
        ["The nights were long and dark."],
        [
            "Somebody had hung it on the bridge to light the way",
            "It was under a pile of leaves, and fireflies sat inside",
        ],
    ),
    "old map": (
        ["It showed the way to a secret place."],
        ["It was inside the big brown book", "The wind had stuck it to the wall of the mill"],
    ),
}

SEARCHED = [
    "{he} looked under the bed and behind the door, but it was not there.",
    "{he} turned the whole house upside down.",
    "{he} walked back along the path, step by step.",
    "{he} asked everyone {he} met, but nobody had seen it.",
    "{he} looked in every corner, and then in every corner again.",
    "{he} searched all morning and found nothing but a feather.",
]

GONE = [
    "{N} saw that {his} {thing} was gone.",
    "{N} could not find {his} {thing}.",
    "{N} noticed that {his} {thing} was missing.",
]
SEARCHED_TOGETHER = [
    "They searched together, high and low.",
    '"I will help you look," said {H}.',
    '"When did you last see it?" asked {H}.',
]
FOUND = ["At last {N} found it.", '"There it is!" said {N}.', "Then {H} began to laugh and called {N}."]

FRIGHTENED = [
    "{his} heart beat fast.",
    "{N} pulled the blanket over {his} ears.",
    "{N} held {his} breath and listened.",
    "At first {N} thought that it was only a dream.",
]
LOOKED = [
    "Then {he} took a candle and went to look.",
    "But {he} took a deep breath and tiptoed closer.",
    "In the end {he} could not bear it any longer and went to see.",
]

WORRIED = [
    "Everyone was worried, and nobody knew what to do.",
    "Some cried, and some shouted.",
    "The others just stood there and sighed.",
]
DECIDED = ['"We have to do something," said {N}.', "But {N} had an idea.", "{N} did not wait for the others."]
JOINED = [
    "{a_helper} was the first to help.",
    "{a_helper} came to help.",
    "{he} went to see {a_helper}, who lived next door.",
]

STARED = ['"How strange," said the neighbours.', "Everybody stared.", "The others laughed and turned away."]
ASKED = [
    "But {N} went over and asked why.",
    "{N} was puzzled, so {he} asked.",
    "Only {N} knocked on the door and asked about it.",
]

# sound: (what it was, what they did about it)
NOISES: dict[str, tuple[str, str]] = {
    "a soft tapping at the window": (
        "It was {a_helper}, wet from the rain",
        "{N} opened the door and made a cup of hot milk for {hhim}.",
    ),
    "somebody crying behind the hedge": (
        "It was a young {hk}, who had lost the way",
        "{N} took {hhim} by the hand and brought {hhim} home.",
    ),
    "a deep humming under the floor": (
        "It was {a_helper}, who was singing in the cellar",
        "{N} sat down on the stairs and sang along.",
    ),
    "a loud thump on the roof": (
        "It was {a_helper}, who had tried to fly",
        "{N} fetched a ladder and put a bandage on {hhis} knee.",
    ),
    "strange music from the hill": (
        "It was {a_helper}, who was playing a flute",
        "{N} asked if {he} could learn the tune.",
    ),
    "a rattle in the kitchen": (
        "It was {a_helper}, who was looking for something to eat",
        "{N} cut two big slices of bread and shared them.",
    ),
    "a whisper from the old well": (
        "It was {a_helper}, who had fallen in",
        "{N} let down the bucket and pulled with all {his} strength.",
    ),
    "heavy steps in the snow": (
        "It was {a_helper}, who was carrying wood to the neighbours",
        "{N} put on {his} coat and went along to help.",
    ),
}

TROUBLES: dict[str, tuple[str, list[str]]] = {
    "a storm broke the bridge": (
        "Nobody could cross the river any more",
        ["{H} brought ropes, {N} brought planks, and they worked until dark."],
    ),
    "the well ran dry": (
        "There was no water left for the gardens",
        ["{H} found a spring behind the rocks, and {N} dug a small canal."],
    ),
    "the wind blew the roof off the school": (
        "It rained on all the books",
        ["{H} carried the beams, and {N} laid one tile after the other."],
    ),
    "a big tree fell across the road": (
        "No cart could pass",
        ["{H} sawed from one side, and {N} sawed from the other."],
    ),
    "the snow covered all the doors": (
        "Nobody could get out of the house",
        ["{H} dug a tunnel, and {N} carried the snow away."],
    ),
    "the lamp in the lighthouse went out": (
        "The ships could not find the harbour",
        ["{H} climbed the stairs with a lantern, and {N} brought the oil."],
    ),
    "all the bread was gone": (
        "The ovens were cold and the shelves were empty",
        ["{H} ground the wheat, and {N} baked all through the night."],
    ),
    "the moon did not come out": (
        "It was so dark that nobody found the way home",
        ["{H} cut a moon from silver paper, and {N} hung it in the highest tree."],
    ),
}

FIXED = [
    "By the next morning, all was well again.",
    "It took them three days, and then it was done.",
    "When the sun came up, everyone came out and cheered.",
    "In the end it was even better than before.",
]

HABITS: dict[str, tuple[str, str]] = {
    "walked backwards": (
        "{H} liked to see where {hhe} had been",
        "Soon {N} walked backwards too, and saw many things for the first time.",
    ),
    "slept in a tree": (
        "{H} liked to hear the leaves talk",
        "That night {N} slept in the tree too, and the leaves told them both a story.",
    ),
    "wore three hats": (
        "{H} wanted to have one for every friend",
        "The next day {N} got one of the hats, and it fitted perfectly.",
    ),
    "talked to stones": (
        "{H} said that stones are very good listeners",
        "{N} tried it as well, and it felt surprisingly good.",
    ),
    "ate breakfast in the evening": (
        "{H} liked to begin things when others end them",
        "They had pancakes under the stars, and it was wonderful.",
    ),
    "carried a chair everywhere": (
        "{H} never knew when a friend might be tired",
        "{N} sat down on it, and they talked until the moon came up.",
    ),
    "sang instead of speaking": (
        "{H} found that songs are easier than words",
        "{N} answered with a song, and after that there was music every day.",
    ),
    "waved at every cloud": (
        "{H} said that it is polite",
        "So {N} waved too, and a small white cloud seemed to wave back.",
    ),
}

# endings that suit every plot, and those that suit one
ENDINGS = [
    "From that day on, {N} and {H} were the best of friends.",
    "And they lived happily ever after.",
    "That night {N} slept better than ever before.",
    "And if you walk by on a quiet evening, you may still hear them laugh.",
    "{N} looked up at the stars and felt that the world was good.",
    "People still tell this story there today.",
    "It was the best day of {his} life.",
    "Then they went home, for it was time for supper.",
]
ENDINGS_OF = {
    "wish": [
        '"We did it," whispered {N}. "Together," said {H}.',
        '"Thank you," said {N}. "That is what friends are for," said {H}.',
    ],
    "lost": [
        '"Thank you," said {N}. "That is what friends are for," said {H}.',
        "{N} promised to take better care of it.",
    ],
    "noise": [
        '"Same time tomorrow?" asked {H}. "Same time tomorrow," said {N}.',
        "After that, {N} was never afraid of the night again.",
    ],
    "trouble": [
        '"We did it," whispered {N}. "Together," said {H}.',
        "Everyone thanked them, and there was a feast that lasted three days.",
    ],
    "newcomer": [
        '"Same time tomorrow?" asked {H}. "Same time tomorrow," said {N}.',
        "Soon the others came too, and nobody laughed any more.",
    ],
}
