"""Optuna's storage of studies, where its database may be away for a while."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage

from ablate.analysis.connect import is_away, refusals


class PatientStorage(RDBStorage):
    """Each call that the database cannot answer because it is away is made again.

    Args:
        url: of the database.
        remedy: what a user can do where it stays away.
        wait: is given why it did not answer; returns whether to ask it again.
        options: of ``RDBStorage``.
    """

    def __init__(
        self, url: str, remedy: str, wait: Callable[[Exception], bool], **options: Any
    ) -> None:
        self._remedy, self._wait = remedy, wait
        # Connections that a restart has cut off are found dead before they are used.
        super().__init__(url, engine_kwargs={"pool_pre_ping": True}, **options)

    def __getattribute__(self, name: str) -> Any:
        """Any method, made patient: Optuna's cache in front calls those that are private, too."""
        found = super().__getattribute__(name)
        return _patiently(self, found) if inspect.ismethod(found) else found


def _patiently(storage: PatientStorage, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method; it raises StoreError where the database is away for too long."""

    @wraps(method)
    def call(*arguments: Any, **options: Any) -> Any:
        while True:
            try:
                return method(*arguments, **options)
            except StorageInternalError as error:
                cause = error.__cause__
                if not isinstance(cause, Exception) or not is_away(cause):
                    raise
                if not storage._wait(cause):
                    with refusals(storage.url, storage._remedy):
                        raise cause from None

    return call
