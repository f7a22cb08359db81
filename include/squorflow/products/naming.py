"""Names and brands: how they are shown and the keys by which two spellings are found to be the same.

Owns spelling. Which names make a product the same one is `identity`.
"""

from __future__ import annotations

import re
import unicodedata

from squorflow.products.text import fold, one_line

_LEGAL_FORMS = re.compile(
    "inc|incorporated|llc|llp|ltd|limited|ltda|lda|gmbh|mbh|ag|kg|kgaa|ohg|ek|eg|ug|co|corp|corporation|company|"
    "sa|sas|sasu|sarl|srl|snc|scs|bv|nv|bvba|aps|oyj|plc|pvt|pte|pty|private|kft|zrt|doo|dd|sro|spzoo|jsc|ooo|oao|pjsc|"
    "kk|tbk|bhd|sdn|cv|eireli"
)
"""Legal forms without dots, lower case. Words that brands carry as words ("Cie", "Group", "Foods") are left alone."""
_LEGAL_FORMS_AS_WRITTEN = frozenset(
    {"SpA", "S.p.A.", "A/S", "AS", "AB", "Oy", "OY", "S.L.", "SL", "S.A.U.", "Sp. z o.o.", "sp. z o.o."}
)
"""Legal forms that are also words ("spa", "as"): known only by their spelling."""
_CONNECTORS = frozenset({"&", "and", "und", "et", "e", "y", "de", "+"})
_ARTICLES = frozenset({"the", "der", "die", "das", "le", "la", "les", "el", "il", "&", "and"})
_LATIN_MARKS = re.compile("[\u0300-\u036f]")


def normalise_name(text: str) -> str:
    """Return a product name as it is shown: NFC, one line, characters of control gone. Letter case is kept."""
    return one_line(text)


def normalise_brand(text: str) -> str | None:
    """Return a brand without its company suffixes ("Lindt & Sprungli (Usa) Inc." is "Lindt & Sprungli").

    A country in brackets goes with the suffix it stands before. `None` when `text` is blank. The last word is never
    dropped, so a brand called "Company" stays.
    """
    words = one_line(text).strip(" ,;").split(" ")
    shortened = True
    dropped = False
    while shortened:
        shortened = False
        for size in (3, 2, 1):
            head, tail = words[:-size], words[-size:]
            if not _is_a_brand(head):
                continue
            bracketed = size == 1 and dropped and tail[0].startswith("(") and tail[0].endswith(")")
            dangling = size == 1 and dropped and tail[0].casefold() in _CONNECTORS
            if bracketed or dangling or _is_legal_form(tail, all_upper=" ".join(words).isupper()):
                words = " ".join(head).rstrip(" ,;").split(" ")
                shortened = dropped = True
                break
    return " ".join(words) or None


def name_key(text: str) -> str:
    """Return the key of a product name: folded, without accents and punctuation, words apart."""
    return _key(text, joined_by=" ")


def brand_key(text: str) -> str:
    """Return the key of a brand; spaces do not count either ("Slim-Fast!", "Slimfast"), and "&" is "and"."""
    return _key(text.replace("&", " and "), joined_by="")


def _is_a_brand(words: list[str]) -> bool:
    return any(word.casefold().strip(".,") not in _ARTICLES and any(map(str.isalnum, word)) for word in words)


def _is_legal_form(words: list[str], *, all_upper: bool) -> bool:
    written = " ".join(words).rstrip(",;")
    if written in _LEGAL_FORMS_AS_WRITTEN:
        return not all_upper or not written.isalpha()
    return len(words) == 1 and bool(_LEGAL_FORMS.fullmatch(re.sub(r"[.,/()]", "", written).casefold()))


def _key(text: str, *, joined_by: str) -> str:
    folded = fold(text)
    bare = unicodedata.normalize("NFC", _LATIN_MARKS.sub("", unicodedata.normalize("NFKD", folded)))
    # Combining vowels of Indic and other scripts are letters to their readers, though `isalnum` denies it.
    words = "".join(
        character if unicodedata.category(character)[0] in "LNM" else "" if character in "'\u2019" else " "
        for character in bare
    ).split()
    return joined_by.join(words) or folded
