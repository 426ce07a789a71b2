"""Whether a text gives away a film's title. A user who names the film is looking for proves nothing of who finds it.

Rather once too often: who is stopped wrongly says it in other words. Only a title that is one word which every
sentence has ("It", "Up", "M") counts where the text marks it as a title, and nowhere else.
"""

import re
import unicodedata
from functools import lru_cache

from ecr_ray.data.knowledge import normal, split_year
from ecr_ray.recommender.catalogue import Catalogue
from ecr_ray.recommender.linking import Linker

_ARTICLES = ("the", "a", "an")
_PARTS = re.compile(r":\s|\s[-–—]\s")
_APOSTROPHES = re.compile(r"['’`]")


def leaks(text: str, title: str) -> bool:
    """Whether the words of a title, or of one side of its colon, stand in a text; year, article and accents aside."""
    said = _words(text)
    return any(
        words == said if _common(words) else f" {words} " in f" {said} " for words in _spellings(split_year(title)[0])
    )


class Watch:
    """Looks out for a catalogue's titles, written with a slip of the pen too."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.linker = Linker(catalogue)
        self._catalogue, self._numbers = catalogue, catalogue.numbers()

    def leaks(self, text: str, item_id: str) -> bool:
        """Whether a text gives this film away, or may mean it among others of the same name."""
        number = self._numbers[item_id]
        if leaks(text, self._catalogue.items[number].title):
            return True
        return any(number in (link.node, *link.candidates) for link in self.linker.link(text))

    def names(self, text: str, item_id: str) -> bool:
        """Whether a text names this film and no other."""
        return self._numbers[item_id] in self.linker.items(text)

    def without_films(self, text: str) -> str:
        """A text whose titles are taken out, as their words say something else."""
        for link in reversed(self.linker.link(text)):
            if self.linker.is_item(link):
                text = text[: link.start] + text[link.end :]
        return text


@lru_cache(4096)
def _spellings(name: str) -> tuple[str, ...]:
    whole = _words(name)
    parts = [_bare(_words(part)) for part in _PARTS.split(name)[:2]]
    found = [whole, _bare(whole), *(part for part in parts if " " in part)]
    return tuple(dict.fromkeys(words for words in found if words))


def _words(text: str) -> str:
    plain = "".join(c for c in unicodedata.normalize("NFKD", text) if not unicodedata.combining(c))
    return normal(_APOSTROPHES.sub("", plain))


def _bare(words: str) -> str:
    first, _, rest = words.partition(" ")
    return rest if rest and first in _ARTICLES else words


def _common(words: str) -> bool:
    return len(words) == 1 or words in _stop_words()


@lru_cache(1)
def _stop_words() -> frozenset[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    return ENGLISH_STOP_WORDS
