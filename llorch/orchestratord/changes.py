"""What one configuration changes of another, key by key, and when each change counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llorch.base.settings import Change
from llorch.base.settings_table import ORCHESTRATORD
from llorch.orchestratord.settings import SECTION

Plain = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One key that is another (None: not set), or with `key` "" a whole section that is new or gone."""

    section: str
    key: str
    before: Any
    after: Any
    change: Change

    @property
    def name(self) -> str:
        """As logs name it: sections of names with their name, settings of orchestratord bare."""
        if self.section == SECTION:
            return self.key
        return f"{self.section}.{self.key}" if self.key else self.section


def differences(before: Plain, after: Plain) -> list[Difference]:
    """In the order of `after`, then what is gone; see Configuration.plain."""
    found: list[Difference] = []
    for section in dict.fromkeys((*after, *before)):
        old, new = before.get(section), after.get(section)
        if old is None or new is None:
            found.append(Difference(section, "", old, new, Change.LIVE))
        else:
            found += [
                Difference(section, key, old.get(key), new.get(key), _when(section, key))
                for key in dict.fromkeys((*new, *old))
                if old.get(key) != new.get(key)
            ]
    return found


def names(found: Sequence[Difference], change: Change) -> str:
    """Those of one kind, for one line."""
    return ", ".join(difference.name for difference in found if difference.change is change)


def _when(section: str, key: str) -> Change:
    if section != SECTION:
        return Change.LIVE
    return next((row.change for row in ORCHESTRATORD if row.key == key), Change.RESTART)
