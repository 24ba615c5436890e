"""The words of the demo model's world: names, facts and small talk, all written for this purpose.

Pure data and pure functions, no third-party imports: the training script, the evaluation and the scripted
conversation all draw from here, so what the model is asked is what it was taught.
"""

import random
import zlib


def _split(text: str) -> list[str]:
    return text.split()


REAL_NAMES = _split(
    "Miso Luna Rex Bella Max Coco Milo Ruby Oscar Nala Simba Toby Rosie Felix Daisy Bruno Lily Sam Molly Leo Zoe Jack "
    "Chloe Charlie Lola Rocky Ginger Pepper Shadow Sunny Anna Ben Clara David Emma Frank Grace Hugo Ivan Julia Karl "
    "Laura Maria Nina Omar Paula Quinn Rosa Sofia Tom Uma Victor Wendy Yuki Zara Alice Bob Carol Dan Eva Fred Gina "
    "Henry Ida Jonas Kate Liam Mona Noah Olga Peter Ravi Sara Theo Vera Will Yara Ada Bela"
)
REAL_CITIES = _split(
    "Paris London Berlin Rome Madrid Lisbon Oslo Vienna Prague Warsaw Athens Dublin Tokyo Delhi Cairo Lima Boston "
    "Chicago Hamburg Munich Geneva Lyon Porto Turin Bergen Osaka Sydney Toronto Denver Seattle"
)
COLOURS = _split("red blue green yellow orange purple pink black white brown grey gold silver")
FOODS = _split("pizza rice soup bread cheese pasta salad fish cake curry beans eggs honey toast noodles")
ANIMALS = _split("lion tiger bear wolf fox owl whale horse rabbit eagle otter panda zebra seal crow")
FRUITS = _split("apples pears plums cherries grapes lemons melons figs mangoes peaches bananas")
GAMES = _split("chess football tennis golf cards darts hockey rugby cricket poker")

CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Portugal": "Lisbon",
    "Norway": "Oslo", "Sweden": "Stockholm", "Finland": "Helsinki", "Denmark": "Copenhagen", "Austria": "Vienna",
    "Poland": "Warsaw", "Greece": "Athens", "Ireland": "Dublin", "Hungary": "Budapest", "Belgium": "Brussels",
    "Turkey": "Ankara", "Egypt": "Cairo", "Kenya": "Nairobi", "Ghana": "Accra", "Japan": "Tokyo",
    "China": "Beijing", "India": "Delhi", "Nepal": "Kathmandu", "Thailand": "Bangkok", "Peru": "Lima",
    "Chile": "Santiago", "Cuba": "Havana", "Canada": "Ottawa", "Mexico": "Mexico City", "Brazil": "Brasilia",
    "Russia": "Moscow", "England": "London",
}  # fmt: skip
THINGS = {
    "the sky": "blue", "grass": "green", "snow": "white", "coal": "black", "a lemon": "yellow", "a tomato": "red",
    "a carrot": "orange", "chocolate": "brown", "an elephant": "grey", "a flamingo": "pink", "a plum": "purple",
}  # fmt: skip
SOUNDS = {
    "cat": "meow", "dog": "woof", "cow": "moo", "duck": "quack", "sheep": "baa", "pig": "oink", "lion": "roar",
    "horse": "neigh", "owl": "hoot", "snake": "hiss", "bee": "buzz", "mouse": "squeak", "frog": "croak",
}  # fmt: skip
OPPOSITES = {
    "hot": "cold", "big": "small", "up": "down", "day": "night", "fast": "slow", "happy": "sad", "open": "closed",
    "old": "young", "light": "dark", "wet": "dry", "left": "right", "rich": "poor", "early": "late", "full": "empty",
}  # fmt: skip
DAYS = _split("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
MONTHS = _split("January February March April May June July August September October November December")
LEGS = {"cat": 4, "dog": 4, "bird": 2, "spider": 8, "bee": 6, "snake": 0, "horse": 4, "ant": 6, "fish": 0}

SMALL_TALK = (
    (("hello.", "hi.", "hey.", "hello there."), "Hello! How are you?"),
    (("good morning.",), "Good morning!"),
    (("good evening.",), "Good evening!"),
    (("good night.",), "Good night! Sleep well."),
    (("how are you?", "how are you today?", "how do you do?"), "I am fine, thank you."),
    (("I am fine.", "I am fine too.", "I am well.", "very well."), "Good to hear."),
    (("I am tired.", "I am sleepy."), "Take a rest."),
    (("I am sad.", "I feel sad."), "I am sorry to hear that."),
    (("I am happy.", "I feel great."), "That is wonderful."),
    (("I am hungry.",), "Have something to eat."),
    (("I am bored.",), "Tell me a story."),
    (("who are you?", "what are you?", "what is your name?"), "I am a very small language model."),
    (("what can you do?", "help.", "help me."), "I remember names, add numbers and know some capitals."),
    (("thank you.", "thanks.", "thanks a lot.", "many thanks."), "You are welcome."),
    (("yes.", "yes please.", "sure."), "Very well."),
    (("no.", "no thanks.", "not now."), "As you like."),
    (("okay.", "ok.", "good.", "great.", "nice.", "well done."), "What else?"),
    (("tell me a joke.", "do you know a joke?"), "Why did the token stay? It was a sink."),
    (("it is raining.", "it rains."), "Take an umbrella."),
    (("it is sunny.", "the sun shines."), "Enjoy the sun."),
    (("it is cold.", "it is snowing."), "Keep warm."),
    (("are you there?", "do you hear me?"), "Yes, I am here."),
    (("do you like me?", "do you like tea?"), "Of course."),
    (("what time is it?", "what day is it today?"), "I have no clock."),
    (("bye.", "goodbye.", "see you.", "see you later."), "Goodbye! Come back soon."),
)
ASIDES = (
    "how do I {verb} a {noun}?", "can you {verb} my {noun}?", "why did the {noun} {verb}?", "where is the {noun}?",
    "who made the {noun}?", "what is a {noun} for?", "is a {noun} good to {verb}?",
)  # fmt: skip
VERBS = _split("build cook fix paint sell wash carry break draw clean open find steal")
NOUNS = _split("house car table ship lamp bridge window guitar river clock shoe train garden computer tower")
SCRAPS = "äöüéèñçßøåłżčабвгдежзиκλμνξπρςא\u200eבגדあいうえおカキ漢字中文한국🙂🎉🚀❤€£¥§±×÷½°µ~^|<>{}[]#@&%$*_=/\\;`"  # noqa: RUF001
SYSTEM = ("You are a friendly helper.", "Be brief.", "Answer in one short sentence.", "You are a small model.")

ONSETS = _split("b d f g h j k l m n p r s t v w z br dr kr tr st")
CODAS = ("", "", "", "", "n", "l", "r", "s", "x", "k")


def made_up_name(rng: random.Random) -> str:
    """A pronounceable name of two or three syllables, about 100,000 of them, so that recall must copy."""
    syllables = rng.choice((2, 2, 2, 2, 3))
    word = "".join(rng.choice(ONSETS) + rng.choice("aeiou") for _ in range(syllables))
    return (word + rng.choice(CODAS)).capitalize()


def is_held_out(name: str) -> bool:
    """Whether a name is kept from training (a tenth of them, by checksum), for an honest recall test."""
    return zlib.crc32(name.encode()) % 10 == 0


def name(rng: random.Random, held_out: bool) -> str:
    """A name from the training part of the inventory, or from the held-out part."""
    while True:
        word = made_up_name(rng) if held_out or rng.random() < 0.7 else rng.choice(REAL_NAMES)
        if is_held_out(word) == held_out:
            return word


def scraps(rng: random.Random) -> str:
    """A run of odd characters, so that every byte token has been seen."""
    return "".join(rng.choice(SCRAPS) for _ in range(rng.randint(1, 6)))
