"""What crosses an institution's border, counted where it crosses."""

import pandas as pd

COLUMNS = ["round", "site", "direction", "what", "bytes"]


class Ledger:
    """Bytes by round, site and direction: down (server to site), up (site to server), peer (from another site)."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, str, str, int]] = []

    def record(self, number: int, site: str, direction: str, what: str, nbytes: int) -> None:
        self.rows.append((number, site, direction, what, nbytes))

    def bytes_of(self, number: int, site: str) -> int:
        """All bytes that crossed this site's border in this round."""
        return sum(row[4] for row in reversed(self.rows) if row[0] == number and row[1] == site)

    def frame(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=COLUMNS)
