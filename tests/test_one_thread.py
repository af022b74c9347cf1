"""A thread beside the loop: what hangs there, and who leaves before it is their turn."""

from __future__ import annotations

import asyncio
import threading

import pytest

from iem_dcr.service.one_thread import OneThread
from tests.support.brokers import real_time


@real_time
async def test_what_nobody_waits_for_is_not_begun() -> None:
    thread, over, done = OneThread("test"), threading.Event(), []
    try:
        first = asyncio.create_task(thread.do(lambda: over.wait(30), 30))
        left = [asyncio.create_task(thread.do(lambda: done.append(1), 30)) for _ in range(3)]
        await asyncio.sleep(0)
        for task in left:
            task.cancel()
        await asyncio.wait(left)
        over.set()
        assert await first
        assert await thread.do(lambda: len(done), 30) == 0
    finally:
        over.set()
        thread.close()


@real_time
async def test_while_something_hangs_nobody_waits() -> None:
    thread, over = OneThread("test"), threading.Event()
    try:
        with pytest.raises(TimeoutError):
            await thread.do(lambda: over.wait(30), 0.01)
        for _ in range(1000):
            with pytest.raises(TimeoutError):
                await thread.do(lambda: None, 30)
        assert thread._executor._work_queue.qsize() == 0
        over.set()
        while True:
            await asyncio.sleep(0.001)
            try:
                assert await thread.do(lambda: 7, 30) == 7
            except TimeoutError:
                continue
            break
    finally:
        over.set()
        thread.close()


@real_time
async def test_what_fails_says_so() -> None:
    thread = OneThread("test")
    try:
        with pytest.raises(ZeroDivisionError):
            await thread.do(lambda: 1 // 0, 30)
    finally:
        thread.close()
