"""Where the controller keeps what is wanted: `base` says what a store does, `sqlite` is one for one machine.

What devices hold is never stored: it is read back from them. Traffic is not either: monitoring measures it.
"""

from controller.store.base import Batch, Contents, LockedError, StaleError, StateStore, StoreError
from controller.store.sqlite import SqliteStore

__all__ = ["Batch", "Contents", "LockedError", "SqliteStore", "StaleError", "StateStore", "StoreError"]
