"""Kernels compiled by numba, which are kept beside their source: also where a process may only read there."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar, cast

from numba import njit
from numba.core.caching import CacheImpl, InTreeCacheLocator

Function = TypeVar("Function", bound=Callable[..., Any])


def kernel(**options: Any) -> Callable[[Function], Function]:
    """Return a decorator that compiles a function with numba's options; see `numba.njit`.

    What is compiled in a process that may not keep it is compiled again in the next one.
    """

    def decorate(function: Function) -> Function:
        compiled: Any = njit(**options)(function)
        # RuntimeError: there is no folder to keep it in, not even one to read.
        with suppress(RuntimeError):
            compiled.enable_caching()
            compiled._cache.save_overload = _or_not(compiled._cache.save_overload)
        return cast(Function, compiled)

    return decorate


def _or_not(save: Callable[..., None]) -> Callable[..., None]:
    def tried(*arguments: Any) -> None:
        with suppress(OSError):
            save(*arguments)

    return tried


class _Readable(InTreeCacheLocator):
    """Finds what somebody else keeps beside the source; numba itself reads only where it may write."""

    def ensure_cache_path(self) -> None:
        if not os.access(self._cache_path, os.R_OK | os.X_OK):
            raise PermissionError(f"{self._cache_path} cannot be read")


CacheImpl._locator_classes.append(_Readable)
