"""The text front of the embedded pack: Russian, emoji and misspellings become captions that the pack knows."""

from __future__ import annotations

import json
import random
from collections.abc import Iterable, Iterator, Sized
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from models.pack import packs
from models.protocols.readings import Reading
from models.reading import front as reading_front
from models.reading.front import TextFront
from models.reading.lexicon import Phrases
from models.reading.spelling import CYRILLIC, LATIN, MIN_LETTERS, MOST_LETTERS
from models.training.data import captions, icons
from models.training.data.palette import BACKGROUND_NAMES
from models.training.data.scenes import Scene, Thing
from models.training.evaluation import russian

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACK = packs()["pictogram"]


@pytest.fixture(scope="module")
def front() -> TextFront:
    assert PACK.words is not None
    return TextFront(PACK.words, PACK.text_encoder_folder() / "vocab.txt")


def understood(front: TextFront, text: str) -> str:
    reading = front.read(text)
    assert reading is not None, text
    return reading.understood


@pytest.mark.parametrize(("text", "english"), russian.everyday(), ids=lambda text: str(text))
def test_everyday_russian_is_understood(front: TextFront, text: str, english: str) -> None:
    reading = front.read(text)
    assert reading == Reading("ru", english)


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("красное яблоко на белом фоне", "a red apple on a white background"),
        ("яблоко красного цвета, фон белый", "a red apple on a white background"),
        ("КРАСНОЕ ЯБЛОКО НА БЕЛОМ", "a red apple on white"),
        ("Ёжик", "a hedgehog"),
        ("ежик", "a hedgehog"),
        ("красные яблоки", "red apples"),
        ("два красных яблока", "two red apples"),
        ("много ножей", "many knives"),
        ("ножницы", "scissors"),
        ("рисунок двух котов", "a drawing of two cats"),
        ("фото собаки", "a picture of a dog"),
        ("собаки", "dogs"),
        ("букет тюльпанов", "a bouquet of tulips"),
        ("слева кот, справа собака", "a cat on the left, a dog on the right"),
        ("слева от дома дерево", "a tree to the left of a house"),
        ("чёрный кот с жёлтыми глазами", "a black cat"),
        ("снежинка на тёмно-синем фоне", "a snowflake on a dark blue background"),
        ("размыто, текст, водяной знак", "blurry, text, a watermark"),
        ("красный автобус в стиле ното", "a red bus in noto style"),
        ("красное apple на white фоне", "a red apple on a white background"),
        ("большая 🍎 на синем", "a big red apple on blue"),
        ("слон🐘 на зелёном", "an elephant on green"),
        ("красное яблоко слева от синей чашки", "a red apple to the left of a blue cup of coffee"),
        ("чашка рядом с новым столом", "a cup of coffee next to a new table"),
        ("яблоко под старым деревом", "an apple under an old tree"),
        ("чашка рядом с синими чашками", "a cup of coffee next to blue cups of coffee"),
        ("белые коты", "white cats"),
        ("машины", "cars"),
        ("часы", "a watch"),
        ("портрет девушки", "a girl"),
        ("около чашки", "a cup of coffee"),
        ("сидят девушки", "girls"),
    ],
)
def test_word_forms_order_and_number(front: TextFront, text: str, english: str) -> None:
    assert understood(front, text) == english


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("krasnoe yabloko na belom fone", "a red apple on a white background"),
        ("chyornyy kot", "a black cat"),
        ("chorniy kot", "a black cat"),
        ("medved", "a bear"),
        ("zheltaya utka i siniy avtobus", "a yellow duck and a blue bus"),
        ("red yabloko on a white background", "a red apple on a white background"),
    ],
)
def test_russian_in_latin_letters(front: TextFront, text: str, english: str) -> None:
    assert front.read(text) == Reading("ru-Latn", english)


@pytest.mark.parametrize(
    ("text", "corrections", "english"),
    [
        ("a red aple", {"aple": "apple"}, "a red apple"),
        ("a rabit on a whitte background", {"rabit": "rabbit", "whitte": "white"}, "a rabbit on a white background"),
        ("a purple dragn, twemoji style", {"dragn": "dragon"}, "a purple dragon, twemoji style"),
        ("сабака", {"сабака": "собака"}, "a dog"),
        ("яблако на белом фони", {"яблако": "яблоко", "фони": "фон"}, "an apple on a white background"),
        ("зелёная машына", {"машына": "машина"}, "a green car"),
    ],
)
def test_misspellings_by_one_letter(front: TextFront, text: str, corrections: dict[str, str], english: str) -> None:
    reading = front.read(text)
    assert reading is not None
    assert dict(reading.corrections) == corrections
    assert reading.understood == english


@pytest.mark.parametrize(
    ("text", "reading"),
    [
        ("a r\u0435d apple", Reading("en", "a red apple", corrections=(("r\u0435d", "red"),))),
        ("красное яблo\u043aо", Reading("ru", "a red apple", corrections=(("яблo\u043aо", "яблоко"),))),
        ("a r\u0435d aple", Reading("en", "a red apple", corrections=(("r\u0435d", "red"), ("aple", "apple")))),
        ("a \u0458eep", Reading("en", "a jeep", corrections=(("\u0458eep", "jeep"),))),
        (
            "\u0423ellow flower\u0455",
            Reading("en", "Yellow flowers", corrections=(("\u0423ellow", "Yellow"), ("flower\u0455", "flowers"))),
        ),
        ("a cat-яблоко", Reading("ru", "a cat, an apple")),
    ],
)
def test_letters_of_the_other_alphabet_that_look_alike(front: TextFront, text: str, reading: Reading) -> None:
    assert front.read(text) == reading


def test_symbols_beside_emoji_are_left_out_and_told(front: TextFront) -> None:
    assert front.read("🏳️‍🌈") == Reading("emoji", "a rainbow", unknown=("🏳",))
    assert front.read("🍎 ✓") == Reading("emoji", "a red apple", unknown=("✓",))
    assert front.read("krasnoe yabloko 🍎 ✓") == Reading("ru-Latn", "a red apple", unknown=("✓",))
    assert front.read("a cat ✓") is None


@pytest.mark.parametrize("text", ["«красное яблоко»", "„красное яблоко“", "красное — яблоко…", "“krasnoe yabloko”"])
def test_punctuation_is_left_out_without_a_word(front: TextFront, text: str) -> None:
    reading = front.read(text)
    assert reading is not None
    assert (reading.understood, reading.unknown) == ("a red apple", ())


@pytest.mark.parametrize(("text", "word", "others"), [("an asket", "asket", ("basket", "casket"))])
def test_ambiguous_words_are_told_and_not_guessed(
    front: TextFront, text: str, word: str, others: tuple[str, ...]
) -> None:
    assert front.read(text) == Reading("en", text, ambiguous=((word, others),))


@pytest.mark.parametrize(
    "text",
    [
        "a red toaster",
        "a lawn mowing robot",
        "veal with aloe",
        "a flattering dress",
        "A Crepe with malt",
        "a foggy loom",
        "a tapir",
        "two okapis and a gnu, an ibex, a potto",
        "a durum wheat field",
    ],
)
def test_english_words_that_the_pack_does_not_know_are_no_misspellings(front: TextFront, text: str) -> None:
    assert front.read(text) is None


def test_short_words_have_too_many_neighbours(front: TextFront) -> None:
    assert front.read("a caf") is None


@pytest.mark.parametrize(
    ("text", "english"),
    [
        ("🍎", "a red apple"),
        ("🍎 on a white background", "a red apple on a white background"),
        ("a small 🍎", "a small red apple"),
        ("🐈🚗", "a cat and a car"),
        ("❤️", "a red heart"),
    ],
)
def test_emoji_are_things(front: TextFront, text: str, english: str) -> None:
    assert front.read(text) == Reading("emoji", english)


def test_unknown_words_are_told_and_left_out(front: TextFront) -> None:
    assert front.read("квазар на белом фоне") == Reading("ru", "on a white background", unknown=("квазар",))
    nothing = front.read("синхрофазотрон")
    assert nothing == Reading("ru", "синхрофазотрон", unknown=("синхрофазотрон",)), "the model gets the text as it is"


@pytest.mark.parametrize("text", ["", "   ", "!!!", "a spaceship over paris", "猫", "قطة", "🧮", "7", "¿un gato?"])
def test_what_it_does_not_know_stays_as_it_is(front: TextFront, text: str) -> None:
    assert front.read(text) is None


def test_english_captions_are_read_to_the_letter_and_load_no_morphology() -> None:
    assert PACK.words is not None
    front = TextFront(PACK.words, PACK.text_encoder_folder() / "vocab.txt")
    texts = [*(PACK.folder / "prompts.txt").read_text("utf-8").splitlines()]
    texts += (ROOT / "tests/bench/prompts.txt").read_text("utf-8").splitlines()
    texts += [str(word) for word in captions.HELD_OUT]
    captioner = captions.Captioner(5)
    for place, name in enumerate(icons.pack_names()):
        texts += [captions.DISPLAY.get(name, name), name, *captions.SYNONYMS[name]]
        for style in captions.STYLE_WORDS:
            background = BACKGROUND_NAMES[place % len(BACKGROUND_NAMES)]
            stated = frozenset({"background", "size", "place", "style"})
            texts.append(captioner.caption(Scene((Thing(name, "red"),), style, background, "small", "left", stated)))
        texts.append(captioner.caption(Scene((Thing(name), Thing("cat")), "noto", "grey", stated=frozenset())))
    changed = {text: reading for text in texts if (reading := front.read(text)) is not None}
    assert changed == {}
    assert len(texts) > 10_000
    assert "_analyzer" not in vars(front._morphology)


def test_russian_knows_every_thing_of_the_pack(front: TextFront) -> None:
    """Every name of the pack is the translation of some Russian phrase."""
    assert PACK.words is not None
    things = set(json.loads(PACK.words.read_text("utf-8"))["russian"]["thing"].values())
    missing = [name for name in icons.pack_names() if captions.DISPLAY.get(name, name) not in things]
    assert len(missing) <= 5, missing


def odd_words(letters: str, length: int) -> str:
    """4,000 characters of different words that no dictionary has."""
    draw = random.Random(3)
    return " ".join("".join(draw.choices(letters, k=length)) for _ in range(4000 // (length + 1)))


@pytest.mark.parametrize("text", [odd_words(CYRILLIC, 4), odd_words(CYRILLIC, 24), odd_words(LATIN, 24), "x" * 4000])
def test_few_odd_words_of_a_text_are_looked_up(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert PACK.words is not None
    looked_up = list[str]()

    def noted(own: Any, word: str, *rest: Any) -> Any:
        looked_up.append(word)
        return own(word, *rest)

    for name in ("corrections", "spellings"):
        monkeypatch.setattr(reading_front, name, partial(noted, getattr(reading_front, name)))
    TextFront(PACK.words, PACK.text_encoder_folder() / "vocab.txt").read(text)
    assert 0 < len(looked_up) <= 3 * reading_front.MOST_ODD_WORDS


@pytest.mark.parametrize("text", ["кот " * 1000, "красный " * 500])
def test_a_search_for_a_phrase_takes_only_the_words_it_needs(
    front: TextFront, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken, own = list[object](), Phrases.longest

    def counted(phrases: Phrases, forms: Iterable[Any]) -> Any:
        taken.extend(forms if isinstance(forms, Sized) else ())
        return own(phrases, noted(forms))

    def noted(forms: Iterable[Any]) -> Iterator[Any]:
        for each in forms:
            taken.append(each)
            yield each

    monkeypatch.setattr(Phrases, "longest", counted)
    front.read(text + " ")
    words = len(text.split())
    assert words <= len(taken) <= 4 * words


def test_the_pairs_of_the_figures_are_understood_as_their_english_prompts(front: TextFront) -> None:
    pairs = russian.pairs()
    assert len({pair.russian for pair in pairs}) == len(pairs) == 200
    differing = [pair.russian for pair in pairs if understood(front, pair.russian) != pair.english]
    assert differing == ["цветок", "видеоигры на жёлтом фоне", "кроссовки на жёлтом фоне"], "a synonym, and plurals"


@pytest.mark.parametrize(
    "prompt",
    ["kot i sobaka", "dve koshki na zheltom fone", "красное яблоко, белый фон", "🐱 on a hill", "a red aple"],
)
def test_a_style_at_the_end_does_not_change_what_is_understood(prompt: str) -> None:
    assert PACK.words is not None
    assert PACK.styles is not None
    front = TextFront(PACK.words, PACK.text_encoder_folder() / "vocab.txt", PACK.styles.phrases)
    alone = understood(front, prompt)
    spread = PACK.styles.decided("on").wordings(prompt)
    assert [understood(front, each) for each in spread] == [f"{alone}, {phrase}" for phrase in PACK.styles.phrases]


@pytest.mark.parametrize("document", ["models/README.md", "app/api/README.md"])
def test_the_documents_say_which_words_are_corrected(document: str, front: TextFront) -> None:
    text = (ROOT / document).read_text("utf-8")
    assert f"{MIN_LETTERS} to {MOST_LETTERS} letters" in text
    assert "one wrong letter" not in text
    for word in ("cta", "appel"):
        assert front.read(f"a {word}") is None
    assert front.read("an appple") == Reading("en", "an apple", corrections=(("appple", "apple"),))
