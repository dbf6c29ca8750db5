"""Tasks in processes of this machine."""

from __future__ import annotations

import pytest

from ablate.processes.executors import LocalExecutor, preload
from tests.processes.executor_contract import ExecutorContract


class TestLocalExecutor(ExecutorContract):
    @pytest.fixture(autouse=True)
    def _here(self) -> None:
        preload("ablate.processes.worker", "tests.processes.executor_contract")
        self.executor = LocalExecutor()
