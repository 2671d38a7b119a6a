"""Ways to write the card number 4111 1111 1111 1111, as in text fields of real feeds."""

from __future__ import annotations

from typing import Final

_GROUPS: Final = ("4111", "1111", "1111", "1111")


def in_script(zero: str, text: str) -> str:
    """Return the number with the digits of another script, given by its zero."""
    return text.translate({ord("0") + digit: chr(ord(zero) + digit) for digit in range(10)})


SPELLINGS: Final[dict[str, str]] = {
    "on end": "".join(_GROUPS),
    **{
        f"between {name}": separator.join(_GROUPS)
        for name, separator in {
            "spaces": " ",
            "two spaces": "  ",
            "no-break spaces": "\u00a0",
            "narrow no-break spaces": "\u202f",
            "figure spaces": "\u2007",
            "thin spaces": "\u2009",
            "ideographic spaces": "\u3000",
            "hyphens": "-",
            "non-breaking hyphens": "\u2011",
            "en dashes": "\u2013",
            "em dashes": "\u2014",
            "minus signs": "\u2212",
            "full-width hyphens": "\uff0d",
            "Japanese length marks": "\u30fc",
            "dots": ".",
            "middle dots": "\u00b7",
            "commas": ", ",
            "slashes": "/",
            "backslashes": "\\",
            "underscores": "_",
            "bars": "|",
            "colons": ":",
            "asterisks": "*",
            "signs of several kinds": " - ",
            "zero-width joiners of marks": "\u034f",
            "unseen letters": "\u3164",
            "plus signs": "+",
            "hash signs": "#",
            "full-width full stops": "\uff0e",
            "katakana middle dots": "\u30fb",
            "tatweels": "\u0640",
            "box lines": "\u2500",
            "bullets": "\u2022",
            "pictures": "\U0001f4b3",
            "single letters": "x",
            "the Hangul letter used as a middle dot": "\u318d",
        }.items()
    },
    "digit by digit": " ".join("".join(_GROUPS)),
    "as a keypad shows it": "\u20e3".join("".join(_GROUPS)),
    "in brackets": "(4111)(1111)(1111)(1111)",
    "in groups of other sizes": "411111 1111 111111",
    "full-width": in_script("\uff10", "".join(_GROUPS)),
    "full-width between spaces": in_script("\uff10", "\u3000".join(_GROUPS)),
    "Arabic": in_script("\u0660", "".join(_GROUPS)),
    "Persian": in_script("\u06f0", " ".join(_GROUPS)),
    "Devanagari": in_script("\u0966", "-".join(_GROUPS)),
    "Bengali": in_script("\u09e6", "".join(_GROUPS)),
    "Thai": in_script("\u0e50", "".join(_GROUPS)),
    "mathematical": in_script("\U0001d7ce", "".join(_GROUPS)),
    "Tamil": in_script("\u0be6", "".join(_GROUPS)),
    "Khmer": in_script("\u17e0", "".join(_GROUPS)),
    "Tibetan": in_script("\u0f20", " ".join(_GROUPS)),
    "of Adlam": in_script("\U0001e950", "".join(_GROUPS)),
    "segmented": in_script("\U0001fbf0", "".join(_GROUPS)),
    "superscript": "".join(_GROUPS).replace("4", "\u2074").replace("1", "\u00b9"),
    "subscript": in_script("\u2080", "".join(_GROUPS)),
    "circled": "".join(_GROUPS).replace("4", "\u2463").replace("1", "\u2460"),
    "Chinese": "".join(_GROUPS).replace("4", "\u56db").replace("1", "\u4e00"),
    "Chinese as banks write it": "".join(_GROUPS).replace("4", "\u8086").replace("1", "\u58f9"),
    "Roman": "".join(_GROUPS).replace("4", "\u2163").replace("1", "\u2160"),
    "Ethiopic": "".join(_GROUPS).replace("4", "\u136c").replace("1", "\u1369"),
    "two scripts": "4111" + in_script("\uff10", "11111111") + "1111",
    "with zeros before": "000" + "".join(_GROUPS),
    "on a magnetic stripe": "4111111111111111=28122010000000000000",
    "with the date before": "07/28 4111 1111 1111 1111",
    "behind another number": "order 12 4111 1111 1111 1111 ref 7",
    "glued to letters": "REF4111111111111111X",
    "within a sentence": "Paid with 4111-1111-1111-1111, thank you",
    "glued to letters of another script": "\u5e97411111111111\u00a01111\u3067\u3059",
    "glued to a letter that is a digit": "\u7b2c\u4e004111111111111111",
}

PARTS: Final = frozenset(
    {
        "with zeros before",
        "on a magnetic stripe",
        "with the date before",
        "behind another number",
        "glued to letters",
        "within a sentence",
        "glued to letters of another script",
        "glued to a letter that is a digit",
    }
)
"""The spellings of longer texts: as an identifier, none of them is a card number as a whole."""
