"""Who is awake: one budget a device and one for RAM over all components of all loaded adapters.

A component is awake (it may compute), asleep (its weights wait in host memory, in the precision they were given, and
never compute) or dropped (it exists as a file). Which of these a run may use is its plan's; who leaves when there is
not enough for everybody is decided here, by what it costs to have it back.
"""

from loader.residency.book import Book, Budget, Item, Move, budgets_of
from loader.residency.holding import Source
from loader.residency.keys import key_of
from loader.residency.manager import Residency
from loader.residency.tenant import Tenant

__all__ = ["Book", "Budget", "Item", "Move", "Residency", "Source", "Tenant", "budgets_of", "key_of"]
