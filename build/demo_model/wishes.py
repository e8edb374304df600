"""What a hero may dream of, and the two ways it goes. Data only; the fields are those of `words.py`."""

from __future__ import annotations

from typing import NamedTuple


class Wish(NamedTuple):
    """Reasons are free to choose; trouble, help and ending belong together by position."""

    reasons: list[str]
    troubles: list[str]
    helps: list[str]
    endings: list[str]


# by the infinitive: "wanted to ..."
WISHES = {
    "see the sea": Wish(
        ["{he} had heard that it was bigger than the sky.", "A passing bird had told {him} all about the waves."],
        [
            "But the road was long, and soon {N} came to a fork and did not know which way to go.",
            "{he} walked for two days, until thick fog covered the path.",
        ],
        ["{H} smelled the salt in the air and pointed the way.", "{H} drew a map in the sand and walked in front."],
        [
            "When they came over the last hill, the whole sea lay before them, blue and shining.",
            "At sunset they stood in the warm waves, and {N} laughed out loud.",
        ],
    ),
    "learn to swim": Wish(
        [
            "All summer long {he} had watched the others splash in the water.",
            "On the other bank grew the sweetest berries.",
        ],
        [
            "But each time {his} feet got wet, {N} ran back to the grass.",
            "{he} jumped in and sank like a stone, and came out coughing.",
        ],
        ["{H} held {him} up and told {him} to kick slowly.", "{H} showed {him} how to float, as calm as a leaf."],
        [
            "By the end of the week, {N} swam all the way across.",
            "Soon {N} was swimming in circles and did not want to come out.",
        ],
    ),
    "bake the best cake in the world": Wish(
        ["The summer feast was only three days away.", "It was going to be a birthday surprise for {his} mother."],
        [
            "But the first cake was as flat as a plate, and the second one was as black as coal.",
            "{he} mixed salt with sugar by mistake, and the cake tasted terrible.",
        ],
        [
            "{H} tasted the dough and added honey and a pinch of cinnamon.",
            "{H} watched the oven while {N} stirred and stirred.",
        ],
        [
            "The third cake was golden and soft, and not a crumb was left.",
            "Everybody asked for a second piece, and then for a third.",
        ],
    ),
    "climb the tallest hill": Wish(
        ["From the top, they said, one could see the whole world.", "Nobody in {his} family had ever been up there."],
        [
            "But half-way up, the stones began to slide, and {N} could go no further.",
            "Then the wind grew so strong that {he} had to sit down.",
        ],
        ["{H} knew a hidden path behind the rocks.", "{H} tied a rope around them both, and they went step by step."],
        [
            "From the top they saw rivers and towns, as small as toys.",
            "At last they stood on the top, and the clouds were below them.",
        ],
    ),
    "grow the biggest pumpkin": Wish(
        [
            "{he} had found a single seed in an old coat pocket.",
            "The harvest fair gave a golden ribbon for it every year.",
        ],
        ["But the summer was dry, and the leaves turned yellow.", "But every night somebody nibbled at the leaves."],
        ["{H} carried water from the well every morning.", "{H} built a little fence and kept watch all night."],
        [
            "In autumn the pumpkin was so big that it took ten friends to roll it home.",
            "The pumpkin won the ribbon, and they all ate pumpkin soup for a week.",
        ],
    ),
    "fly a kite": Wish(
        ["{he} had made it from blue paper and an old ribbon.", "It was shaped like a fish and had a long red tail."],
        [
            "But there was no wind at all, and the kite just lay in the grass.",
            "But a strong gust took it and left it high up in a tree.",
        ],
        [
            "{H} knew a hilltop where the wind never sleeps.",
            "{H} reached up, freed the string, and ran as fast as {hhe} could.",
        ],
        [
            "Up went the kite, higher and higher, until it was only a dot.",
            "All afternoon the kite danced above their heads.",
        ],
    ),
    "learn to sing": Wish(
        [
            "The birds sang every morning, and {he} wanted to join them.",
            "There was going to be a concert under the full moon.",
        ],
        [
            "But when {he} opened {his} mouth, only a squeak came out.",
            "But {he} sang so loudly that all the birds flew away.",
        ],
        [
            "{H} taught {him} to breathe slowly and to listen first.",
            "{H} hummed a soft tune, over and over, until {N} could hum it too.",
        ],
        [
            "That evening {N} sang a whole song, and even the wind stopped to listen.",
            "{his} voice was small but clear, and everybody clapped.",
        ],
    ),
    "build a boat": Wish(
        [
            "There was an island on the horizon, and nobody knew what was on it.",
            "{he} had found a beautiful piece of wood on the shore.",
        ],
        [
            "But the first boat had a hole in it, and the water came in at once.",
            "But the wood was heavy, and {he} did not have enough rope.",
        ],
        [
            "{H} filled the cracks with wax and made a sail from an old blanket.",
            "{H} held the planks while {N} hammered in the nails.",
        ],
        [
            "The little boat floated like a duck, and they sailed around the bay.",
            "They named the boat after the morning star and sailed out together.",
        ],
    ),
    "learn to read": Wish(
        [
            "There was an old book in the attic with a golden cover.",
            "A letter had come, and {he} could not tell what it said.",
        ],
        ["But the letters looked like ants running across the page.", "But nobody had time to teach {him}."],
        [
            "{H} began with one letter a day, drawn in the dust.",
            "{H} read each line aloud, and {N} read it after {hhim}.",
        ],
        [
            "By winter {N} could read the whole book, and {he} read it aloud to everyone.",
            "One evening {he} read a whole page alone, and {he} beamed with joy.",
        ],
    ),
    "paint a picture of the sunset": Wish(
        [
            "The sky was never the same two evenings in a row.",
            "{he} wanted to hang it above {his} bed for the dark winter days.",
        ],
        [
            "But {he} had only one colour left, and that was green.",
            "But the sun went down faster than {he} could paint.",
        ],
        [
            "{H} made red paint from berries and yellow paint from flowers.",
            "{H} told {him} to close {his} eyes and paint what {he} remembered.",
        ],
        [
            "The picture glowed so warmly that people held their hands up to it.",
            "When it was done, it was hard to say which sunset was the real one.",
        ],
    ),
    "catch a falling star": Wish(
        ["{he} needed a light for the long winter nights.", "{his} grandmother said that it would grant one wish."],
        [
            "But the stars were too quick and too far away.",
            "{he} waited on the roof all night, and nothing fell at all.",
        ],
        [
            "{H} pointed at the pond, where every star was floating on the water.",
            "{H} sat down beside {him} and waited with {him}.",
        ],
        [
            "So {N} filled a jar with the shining water and carried the light home.",
            "Then a star fell right across the sky, and {N} made a wish and kept it secret.",
        ],
    ),
    "learn to dance": Wish(
        [
            "The harvest ball was coming, and there would be fiddles and drums.",
            "{he} had seen the leaves dance in the wind.",
        ],
        ["But {he} had no idea which foot went first.", "But {he} turned around too fast and fell into a bush."],
        [
            "{H} counted one, two, three, and took {him} by the hand.",
            "{H} told {him} to forget {his} feet and listen to the drum.",
        ],
        [
            "At the ball they danced until the candles went out.",
            "That evening {N} danced so well that everyone made a circle around {him}.",
        ],
    ),
    "cook soup for everyone": Wish(
        ["The winter had been long, and everyone was cold and tired.", "{he} had found a very big pot."],
        ["But there was only one carrot in the kitchen.", "But the fire would not burn, because the wood was wet."],
        [
            "{H} went from door to door, and everyone gave a little something.",
            "{H} brought dry wood and a bag of onions.",
        ],
        [
            "The soup was hot and thick, and there was enough for all.",
            "They ate around the big pot and told stories until midnight.",
        ],
    ),
    "find the end of the rainbow": Wish(
        ["They said that a pot of gold was buried there.", "It looked so close, just behind the next field."],
        [
            "But each time {he} came nearer, the rainbow moved away.",
            "But then the rain stopped, and the rainbow faded.",
        ],
        [
            "{H} laughed and pointed at the puddles, which were full of colours.",
            "{H} gave {him} a piece of glass that made a rainbow of its own.",
        ],
        [
            "There was no gold, but they had found a much better thing: each other.",
            "{N} hung it in the window, and there was a rainbow every morning.",
        ],
    ),
    "win the great race": Wish(
        ["The prize was a basket of red apples.", "Last year {he} had come in last."],
        ["But in the middle of the race {he} hurt {his} foot.", "But the others were bigger and had much longer legs."],
        ["{H} stopped running and helped {him} up.", "{H} told {him} to start slowly and to save {his} breath."],
        [
            "They crossed the line together, and they shared the prize.",
            "{N} passed them one by one and won by the tip of {his} nose.",
        ],
    ),
    "plant an apple tree": Wish(
        ["{he} loved apples more than anything.", "The hill behind the house looked so empty."],
        ["But the ground was hard and full of stones.", "But a cold night came, and the little tree began to shiver."],
        ["{H} dug a deep hole and carried the stones away.", "{H} wrapped the little tree in a warm scarf."],
        [
            "Years later, they sat in its shade and ate the sweetest apples.",
            "In spring it had three white flowers, and in autumn three red apples.",
        ],
    ),
    "build a house of snow": Wish(
        [
            "It had snowed all night, and the world was white and quiet.",
            "{he} wanted to sleep under a roof that sparkled.",
        ],
        ["But the walls kept falling down.", "But {his} hands were cold, and it was getting dark."],
        ["{H} showed {him} how to cut the snow into blocks.", "{H} brought hot tea and a lantern."],
        [
            "When it was finished, the little house shone like silver in the moonlight.",
            "Inside it was warm enough for two, and they told stories until they fell asleep.",
        ],
    ),
    "play the drum": Wish(
        ["The parade was on Sunday, and there was no drummer.", "{he} tapped on pots and boxes all day long."],
        ["But the drum had a hole in it.", "But the neighbours said that it was much too loud."],
        ["{H} mended it with a piece of old leather.", "{H} led {him} to a meadow where nobody would mind."],
        [
            "On Sunday {N} marched in front, and everyone marched behind.",
            "Boom, boom, went the drum, and soon everyone was dancing.",
        ],
    ),
}
