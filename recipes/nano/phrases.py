"""Questions, answers and names used by the nano recipe: everything that is words rather than pixels."""

from __future__ import annotations

import random
import unicodedata

# Colour emoji with well-known, mutually distinct pictures. Names come from Unicode unless given here.
_EMOJI = (
    "🐱 🐶 🐭 🐰 🦊 🐻 🐼 🐨 🐯 🦁 🐮 🐷 🐸 🐵 🐔 🐧 🦉 🐝 🦋 🐌 🐞 🐢 🐍 🐙 🦀 🐠 🐬 🐘 🦄 🐺 "
    "🍎 🍐 🍊 🍋 🍌 🍉 🍇 🍓 🍒 🍍 🍅 🥕 🌽 🍄 🍞 🧀 🍔 🍟 🍕 🍦 🍩 🍪 🎂 🍺 "
    "🌵 🌲 🌴 🌻 🌹 🌷 🍀 🌈 🔥 💧 🌍 ⚽ 🏀 🎾 🎲 🎈 🎁 🎸 🔔 🔑 🔒 💡 📱 💻 📖 🔨 👑 💎 👓 "
    "🚗 🚌 🚒 🚜 🚲 🚀 🚁 🏠 🤖 👻 💀 👽 😀 😍 😎 😢 😡 👍 🎃"
).split()
_SHORT = {
    "🍀": "clover", "🍞": "bread", "🧀": "cheese", "🍦": "ice cream", "🎂": "birthday cake", "🍺": "beer mug",
    "🍅": "tomato", "🍎": "apple", "🍍": "pineapple", "🥕": "carrot", "🌽": "corn", "🌲": "pine tree",
    "🌍": "globe", "⚽": "soccer ball", "🏀": "basketball", "🎾": "tennis ball", "🎲": "dice", "🎁": "gift",
    "💡": "light bulb", "📖": "book", "👓": "glasses", "🚗": "car", "🚲": "bicycle", "🏠": "house",
    "🤖": "robot", "👽": "alien", "😀": "grinning face", "😍": "heart eyes face", "😎": "sunglasses face",
    "😢": "crying face", "😡": "angry face", "👍": "thumbs up", "🎃": "pumpkin", "📱": "phone", "💻": "laptop",
    "💎": "gem", "🌵": "cactus", "🍊": "orange fruit", "🐞": "ladybug", "🐝": "bee", "🎈": "balloon",
    "🦄": "unicorn", "💧": "drop of water", "🦁": "lion face", "🦊": "fox face", "🔒": "lock", "🍉": "watermelon",
    "🍟": "french fries", "🍕": "pizza", "🍔": "burger", "🍩": "doughnut",
}  # fmt: skip
EMOJI: list[tuple[str, str]] = [(e, _SHORT.get(e) or unicodedata.name(e).lower()) for e in _EMOJI]
EMOJI_NAMES = [name for _, name in EMOJI]
SHAPES = ["circle", "square", "triangle", "star", "diamond", "cross", "heart", "ring"]
COLOURS: dict[str, list[tuple[int, int, int]]] = {
    "red": [(220, 30, 30), (200, 20, 40), (240, 50, 45)],
    "orange": [(250, 140, 20), (240, 120, 10), (255, 150, 40)],
    "yellow": [(250, 220, 40), (255, 230, 30), (240, 215, 70)],
    "green": [(40, 160, 60), (20, 130, 50), (70, 190, 80)],
    "blue": [(35, 80, 210), (50, 110, 230), (20, 50, 170)],
    "purple": [(130, 40, 170), (110, 50, 160), (150, 70, 190)],
    "pink": [(255, 150, 190), (250, 130, 180), (255, 170, 205)],
    "brown": [(120, 70, 30), (105, 60, 35), (135, 85, 50)],
    "black": [(10, 10, 12), (25, 25, 25), (0, 0, 0)],
    "white": [(255, 255, 255), (248, 248, 245), (250, 250, 255)],
    "grey": [(128, 128, 128), (145, 145, 148), (115, 116, 118)],
}
COLOUR_NAMES = list(COLOURS)
PLACES = [["top left", "top", "top right"], ["left", "centre", "right"], ["bottom left", "bottom", "bottom right"]]

# "{x}" fields are filled by the caller; colour/color, grey/gray and centre/center are varied by vary().
ASK: dict[str, list[str]] = {
    "what": [
        "What is this?", "What is it?", "What do you see?", "What is shown here?", "What is in this image?",
        "What is in the picture?", "What can you see in this picture?", "Tell me what this is.", "What's this?",
        "Please tell me what you see.", "Can you tell me what this is?", "Name what is shown.", "What does this show?",
        "What's in the image?", "Identify this.", "What is this a picture of?",
    ],
    "describe": [
        "Describe this image.", "Describe the image.", "Describe this picture.", "Please describe this image.",
        "Please describe the picture.", "Please briefly describe this image.", "Describe what you see.",
        "Describe the picture in one sentence.", "Give a short description of this image.", "Caption this image.",
        "Write a caption for this picture.", "Could you describe the image?", "Briefly describe the photo.",
    ],
    "emoji": [
        "Which emoji is this?", "Which emoji is shown?", "What emoji is this?", "Name the emoji.",
        "Which emoji do you see?", "What emoji is in the image?", "Please name this emoji.", "Name this emoji.",
        "Tell me which emoji this is.", "Which emoji is in the picture?", "What is the name of this emoji?",
        "Which object or animal is shown?", "What emoji can you see?",
    ],
    "read": [
        "Read the text.", "What does it say?", "What is written here?", "Read this.", "What word is this?",
        "Which word is written?", "What is the word?", "Please read the text.", "What text is in the image?",
        "Read the word in the picture.", "What does the text say?", "Transcribe the text.", "What is the text?",
        "Can you read this?", "Read out the text in this image.", "What does the sign say?",
        "Which word do you see?", "Please transcribe this.", "OCR this image.", "What is printed here?",
    ],
    "number": [
        "Which number is this?", "What number is shown?", "Read the number.", "What is the number?",
        "What number do you see?", "Please read the number.", "Which number is written here?",
        "Tell me the number.", "What number is in the image?", "What number is printed here?", "Read the digits.",
    ],
    "digit": [
        "Which digit is this?", "What digit is this?", "What digit is shown?", "Which digit is written?",
        "Which number is this?", "What number is this?", "Read the digit.", "What handwritten digit is this?",
        "Please read the digit.", "Which digit do you see?", "Tell me the digit.", "What is the digit?",
    ],
    "shape": [
        "What shape is this?", "Which shape is shown?", "What shape do you see?", "Name the shape.",
        "Which shape is this?", "What shape is in the image?", "What is the shape?", "Please name the shape.",
        "Tell me the shape.", "What kind of shape is it?", "Which shape is in the picture?",
    ],
    "colour": [
        "What colour is the {x}?", "Which colour is the {x}?", "What is the colour of the {x}?",
        "Name the colour of the {x}.", "Tell me the colour of the {x}.", "The {x} has which colour?",
        "Please name the colour of the {x}.", "What colour does the {x} have?", "What colour is this {x}?",
        "Which colour does the {x} have?", "In what colour is the {x}?",
    ],
    "background": [
        "What colour is the background?", "Which colour is the background?", "What is the background colour?",
        "Name the background colour.", "Tell me the colour of the background.", "Background colour?",
        "What colour does the background have?", "Please name the colour of the background.",
        "Which background colour do you see?", "What is the colour behind it?",
    ],
    "where": [
        "Where is the {x}?", "In which part of the image is the {x}?", "Where can you see the {x}?",
        "Where is the {x} placed?", "What is the position of the {x}?", "Tell me where the {x} is.",
        "Where do you see the {x}?", "In which corner or side is the {x}?", "Please locate the {x}.",
        "Where in the picture is the {x}?", "Which part of the picture has the {x}?",
    ],
    "count": [
        "How many {x} are there?", "How many {x} do you see?", "Count the {x}.", "How many {x} are in the image?",
        "How many {x} can you see?", "What is the number of {x}?", "Please count the {x}.",
        "Tell me how many {x} there are.", "How many {x} are shown?", "How many {x} does the picture have?",
        "Give the number of {x}.",
    ],
    "exists": [
        "Is there a {x}?", "Is there a {x} in the image?", "Do you see a {x}?", "Can you see a {x}?",
        "Does the image show a {x}?", "Is a {x} in the picture?", "Does the picture contain a {x}?",
        "Is there any {x} here?", "Please check: is there a {x}?", "Does this image have a {x}?",
    ],
    "side": [
        "What is on the {x}?", "Which shape is on the {x}?", "What do you see on the {x}?", "Name the shape on the {x}.",
        "What shape is on the {x} side?", "Tell me what is on the {x}.", "Which object is on the {x}?",
        "What is shown on the {x}?", "Look at the {x}. What is there?", "What can you see on the {x}?",
    ],
    "same": [
        "Are the two images the same?", "Are these the same?", "Do both images show the same thing?",
        "Are these two pictures the same?", "Is it the same in both pictures?", "Same or different?",
        "Are both pictures the same?", "Do the two pictures match?", "Do these images show the same thing?",
        "Compare the two images. Are they the same?", "Is the second image the same as the first?",
    ],
    "differ": [
        "Are the two images different?", "Are these different?", "Do the images differ?",
        "Do the two pictures show different things?", "Are these two pictures different?",
        "Is the second image different from the first?", "Are both pictures different?",
        "Is there a difference between the two?", "Do these pictures differ?", "Are they different?",
    ],
    "first": [
        "What is in the first image?", "What does the first picture show?", "What is the first image?",
        "Describe the first image.", "What do you see in the first picture?", "Tell me what the first image shows.",
        "What is shown in image 0?", "The first image shows what?", "What's in the first picture?",
        "Name what is in the first image.",
    ],
    "second": [
        "What is in the second image?", "What does the second picture show?", "What is the second image?",
        "Describe the second image.", "What do you see in the second picture?", "Tell me what the second image shows.",
        "What is shown in image 1?", "The second image shows what?", "What's in the second picture?",
        "Name what is in the second image.",
    ],
    "which": [
        "Which image shows the {x}?", "Which picture shows the {x}?", "Which image has the {x}?",
        "In which image is the {x}?", "Which one shows the {x}?", "Which picture has the {x}?",
        "Where is the {x}, in the first or the second image?", "Which of the two images shows the {x}?",
        "Tell me which image has the {x}.", "Is the {x} in the first or the second image?",
    ],
    "both": [
        "What is in the two images?", "Describe both images.", "What do the two pictures show?",
        "What do you see in the images?", "Tell me what both images show.", "Describe the two pictures.",
        "What is shown in both pictures?", "Name what is in each image.", "Describe each image.",
        "What is in each picture?",
    ],
    "add": [
        "What is {x}?", "{x}=", "{x} = ?", "Compute {x}.", "Calculate {x}.", "How much is {x}?", "What does {x} equal?",
        "What is {x}? Reply with the number only.", "Please add: {x}", "Tell me the result of {x}.", "Add: {x}",
        "{x}?", "What's {x}?", "Solve {x}.", "What is the sum {x}?",
    ],
}  # fmt: skip
SYSTEM = [
    "You are a helpful assistant.", "You are a helpful assistant that looks at pictures.", "Answer briefly.",
    "Be short and precise.", "You are nano, a tiny vision model.", "Answer in English.", "You are a vision assistant.",
    "Please keep answers short.", "You describe images.", "Reply in a few words.",
]  # fmt: skip
ABOUT = "I am nano, a tiny vision language model."
HELLO = "Hello! Show me a picture."
TALK: list[tuple[str, list[str]]] = [
    (ABOUT, ["Who are you?", "What are you?", "What is your name?", "Tell me about yourself.", "Introduce yourself.",
             "Please introduce yourself.", "Who am I talking to?", "What model are you?", "Which model is this?",
             "Are you a robot?", "What's your name?", "Say who you are."]),
    (HELLO, ["Hello", "Hello!", "Hi", "Hi!", "Hey", "Hey there!", "Good morning", "Good morning!", "Good evening!",
             "Hello nano!", "Hi there", "Greetings!", "Hello, how are you?"]),
    ("You are welcome.", ["Thanks", "Thank you!", "Thank you", "Thanks a lot!", "Many thanks.", "Thanks, nano.",
                          "Great, thank you.", "Thank you very much.", "Nice, thanks!", "Cheers!"]),
    ("I can name emoji, read short words and digits, and describe simple shapes.",
     ["What can you do?", "What are you good at?", "What do you know?", "How can you help me?", "Help",
      "What can I ask you?", "Tell me what you can do.", "What are your skills?", "What are you for?",
      "Can you help me?"]),
    ("Goodbye!", ["Bye", "Bye!", "Goodbye", "Goodbye!", "See you later!", "See you", "Good night!", "Bye bye",
                  "I have to go.", "Farewell!"]),
]  # fmt: skip
FACTS: list[tuple[str, str]] = [
    ("What is the capital of France?", "Paris"), ("What is the capital of Germany?", "Berlin"),
    ("What is the capital of Italy?", "Rome"), ("What is the capital of Spain?", "Madrid"),
    ("What is the capital of Japan?", "Tokyo"), ("What is the capital of England?", "London"),
    ("What is the capital of China?", "Beijing"), ("What is the capital of Russia?", "Moscow"),
    ("What colour is the sky?", "blue"), ("What colour is grass?", "green"), ("What colour is snow?", "white"),
    ("What colour is blood?", "red"), ("What colour is a banana?", "yellow"), ("What colour is coal?", "black"),
    ("How many legs does a dog have?", "4"), ("How many legs does a spider have?", "8"),
    ("How many days are in a week?", "7"), ("How many months are in a year?", "12"),
    ("How many hours are in a day?", "24"), ("How many sides does a triangle have?", "3"),
    ("How many sides does a square have?", "4"), ("What sound does a cat make?", "meow"),
    ("What sound does a dog make?", "woof"), ("What sound does a cow make?", "moo"),
    ("What is the opposite of hot?", "cold"), ("What is the opposite of big?", "small"),
    ("What is the opposite of up?", "down"), ("What is the opposite of left?", "right"),
    ("What is the largest planet?", "Jupiter"), ("What do bees make?", "honey"), ("What is frozen water?", "ice"),
    ("Which season comes after winter?", "spring"), ("Which month comes after May?", "June"),
    ("Which day comes after Monday?", "Tuesday"), ("What comes after A in the alphabet?", "B"),
]  # fmt: skip
SPELLING = [("colour", "color"), ("grey", "gray"), ("centre", "center")]
POLITE = ["Please. ", "Hey, ", "Hi! ", "Okay: ", "Now ", "Quick question: ", "Hello. "]
TAILS = [
    " Please.",
    " Answer briefly.",
    " Thanks.",
    " Be brief.",
    " Answer in one word.",
    " Reply with the answer only.",
]


def article(name: str) -> str:
    """The name with the indefinite article in front."""
    return ("an " if name[0] in "aeiou" and not name.startswith("uni") else "a ") + name


def plural(name: str) -> str:
    """The plural of a shape, with its colour if it has one."""
    return name + ("es" if name.endswith("s") and not name.endswith("shapes") else "s")


def vary(rng: random.Random, text: str) -> str:
    """A small random change of wording: spelling, politeness, a missing question mark or capital."""
    for british, american in SPELLING:
        if british in text and rng.random() < 0.5:
            text = text.replace(british, american)
    draw = rng.random()
    if draw < 0.06:
        text = rng.choice(POLITE) + text[0].lower() + text[1:]
    elif draw < 0.14:
        text = text + rng.choice(TAILS)
    elif draw < 0.22 and text[-1] in "?.":
        text = text[:-1]
    elif draw < 0.28:
        text = text[0].lower() + text[1:]
    return text


def ask(rng: random.Random, kind: str, x: str = "") -> str:
    """One phrasing of a question of this kind."""
    return vary(rng, rng.choice(ASK[kind]).replace("{x}", x))


def text_pair(rng: random.Random) -> tuple[str, str]:
    """A question without a picture and its answer."""
    draw = rng.random()
    if draw < 0.55:
        a, b = rng.randint(0, 20), rng.randint(0, 20)
        if rng.random() < 0.5:
            a, b = rng.randint(0, 10), rng.randint(0, 10)
        sign = rng.choice(["+", " + ", "+", " plus "])
        return ask(rng, "add", f"{a}{sign}{b}"), str(a + b)
    if draw < 0.75:
        question, answer = rng.choice(FACTS)
        return vary(rng, question), answer
    answer, questions = rng.choice(TALK)
    return vary(rng, rng.choice(questions)), answer


def corpus() -> list[str]:
    """All the text the tokenizer should know well."""
    rng, out = random.Random(7), []
    for kind, lines in ASK.items():
        for line in lines:
            filler = "1+2" if kind == "add" else "red circle"
            out += [vary(rng, line.replace("{x}", filler)) for _ in range(6)]
    for name in EMOJI_NAMES:
        out += [f"{article(name).capitalize()} emoji on a blue background.", name, f"the {name}"] * 4
    for colour in COLOUR_NAMES:
        for shape in SHAPES:
            out += [f"A {colour} {shape} on a {colour} background.", f"two {colour} {plural(shape)}"] * 2
    for row in PLACES:
        out += [f"the {place}" for place in row] * 5
    out += [q for q, _ in FACTS for _ in range(4)] + [a for _, a in FACTS]
    out += [line for answer, lines in TALK for line in [answer, *lines] for _ in range(4)] + SYSTEM * 6
    names = [*EMOJI_NAMES, *COLOUR_NAMES, *SHAPES, *(place for row in PLACES for place in row)]
    out += [word for name in names for word in (name, f" {name}")] * 40  # whole words, so that answers are short
    out += ["The word", "The number", "A handwritten digit", "yes", "no", "the first", "the second"] * 20
    return out
