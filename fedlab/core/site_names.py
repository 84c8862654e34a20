"""Names of simulated sites, and the natural order of names."""

import re


def site_names(count: int) -> list[str]:
    """The names of `count` sites: Site A, Site B, ..., Site Z, Site AA, ...

    Examples
    --------
    >>> from fedlab.core.site_names import site_names
    >>> site_names(28)[-3:]
    ['Site Z', 'Site AA', 'Site AB']
    """
    names = []
    for number in range(1, count + 1):
        letters, left = "", number
        while left:
            left, digit = divmod(left - 1, 26)
            letters = chr(ord("A") + digit) + letters
        names.append(f"Site {letters}")
    return names


def natural(name: str) -> tuple[list[str | int], str]:
    """Sorting key: Site 2 before Site 10, numbers before letters, Site Z before Site AA."""
    letters = re.fullmatch(r"Site ([A-Z]{1,3})", name)
    if letters:
        number = 0
        for letter in letters[1]:
            number = 26 * number + ord(letter) - ord("A") + 1
        return ["Site ", 10**9 + number, ""], name
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)], name
