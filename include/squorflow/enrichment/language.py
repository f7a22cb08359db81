"""Which language a label's text is in, by the words that give it away."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from squorflow.products.lexicon import Word
from squorflow.products.vocabulary import language_words

_LONGEST = 400
"""Words looked at; the beginning of a text tells as much as all of it."""

_FEWEST = 2


def guess_language(words: Sequence[Word]) -> str | None:
    """Return the ISO 639-1 code of the language, `None` when fewer than two different words tell, or none wins."""
    keys = Counter(word.key for word in words[:_LONGEST])
    scores = Counter(
        {
            language: sum(min(keys[key], 3) for key in telling if key in keys)
            for language, telling in language_words().items()
            if sum(key in keys for key in telling) >= _FEWEST
        }
    )
    best = scores.most_common(2)
    if not best or (len(best) > 1 and best[0][1] == best[1][1]):
        return None
    return best[0][0]
