"""Measures the check and the storage of receipts.

Usage: python benchmarks/receipts.py [--quick]

* Verifications: different receipts of one meter are parsed and verified on one core, and also judged. The comparison is
  ``cryptography`` alone with a prepared key, signed bytes and signature.
* Journal: receipts are committed one by one, and by several tasks at once.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from iem_dcr import ocmf
from iem_dcr.driver.ports import KeptReceipt
from iem_dcr.journal import open_journal
from iem_dcr.ocmf.verdict import Judgement, verdict_on

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

GOALS = {"read and verified": 0.8, "judged as well": 0.4}
TASKS = 32
CHUNK = 50
PAYLOAD = (
    '{{"FV":"1.0","GI":"IEM-DCR","GS":"1SIM0000000042","GV":"1.0.13","MV":"Isabellenhuette","MM":"IEM-DCR-1000",'
    '"MS":"1SIM0000000042","CT":"EVSEID","CI":"DE*BEN*E0001*1","IS":true,"IL":"NONE","IF":[],"IT":"ISO14443",'
    '"ID":"04{number:012X}","PG":"T{number}","TT":"","RD":[{{"TM":"2025-06-01T10:00:00,000+0200 S","TX":"B","EF":"",'
    '"ST":"G","RV":"{begin:012.3f}","RI":"1-b:1.8.e","RU":"kWh","RT":"DC"}},{{"TM":"2025-06-01T10:30:00,000+0200 S",'
    '"TX":"E","EF":"","ST":"G","RV":"{end:012.3f}","RI":"1-b:1.8.e","RU":"kWh","RT":"DC"}}]}}'
)
"""A payload in this meter's format and order of fields."""
ALGORITHM = ec.ECDSA(SHA256())


class Signed(NamedTuple):
    """A receipt, and the signed data and signature for a bare check."""

    text: str
    data: bytes
    signature: bytes


def made(key: ec.EllipticCurvePrivateKey, count: int) -> list[Signed]:
    """Create receipts of one meter, numbered from 1."""
    receipts = []
    for number in range(1, count + 1):
        payload = PAYLOAD.format(number=number, begin=number * 19.0, end=number * 19.0 + 18.5)
        signature = key.sign(payload.encode(), ALGORITHM)
        section = f'{{"SA":"ECDSA-secp256r1-SHA256","SD":"{signature.hex().upper()}"}}'
        receipts.append(Signed(f"OCMF|{payload}|{section}", payload.encode(), signature))
    return receipts


def hex_of(key: ec.EllipticCurvePublicKey) -> str:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo).hex()


def cpu_s(work: Callable[[Sequence[Signed]], None], some: Sequence[Signed]) -> float:
    """Return the CPU seconds of this thread for some work."""
    before = time.thread_time()
    work(some)
    return time.thread_time() - before


def works(key: ec.EllipticCurvePublicKey) -> dict[str, Callable[[Sequence[Signed]], None]]:
    """Return the compared kinds of work: the bare check, with parsing, and with judging."""
    text = hex_of(key)

    def bare(some: Sequence[Signed]) -> None:
        for one in some:
            key.verify(one.signature, one.data, ALGORITHM)

    def whole(some: Sequence[Signed]) -> None:
        for one in some:
            if ocmf.verify(ocmf.parse(one.text), text).outcome is not ocmf.Outcome.VALID:
                raise SystemExit(f"a receipt that is valid is not: {one.text}")

    def judged(some: Sequence[Signed]) -> None:
        for one in some:
            if verdict_on([ocmf.parse(one.text)], text).judgement is not Judgement.ACCEPTED:
                raise SystemExit(f"a receipt that is good is not accepted: {one.text}")

    return {"cryptography alone": bare, "read and verified": whole, "judged as well": judged}


def report_verifications(key: ec.EllipticCurvePublicKey, receipts: Sequence[Signed]) -> None:
    """Print verifications per second. The kinds of work alternate, so that all run under the same conditions."""
    compared = works(key)
    took_s: dict[str, list[float]] = {name: [] for name in compared}
    for start in range(0, len(receipts), CHUNK):
        some = receipts[start : start + CHUNK]
        for name, work in compared.items():
            work(some[:1])
            took_s[name].append(cpu_s(work, some) / len(some))
    bare_s = statistics.median(took_s["cryptography alone"])
    print(f"Verifications a second on one core, median over {len(receipts)} receipts of one meter")
    for name, list_s in took_s.items():
        one_s = statistics.median(list_s)
        goal = GOALS.get(name)
        met = "" if goal is None else f"   goal: at least {goal:.2f}: {'met' if bare_s / one_s >= goal else 'NOT MET'}"
        print(f"  {name:<18}  {1 / one_s:7.0f}   ratio {bare_s / one_s:.2f}{met}")


def kept(receipts: Sequence[Signed], key: str) -> list[KeptReceipt]:
    """Return receipts as the driver stores them."""
    return [
        KeptReceipt(ocmf.parse(one.text), f"bench-{number}", key, ocmf.Outcome.VALID, address="192.168.60.12:80")
        for number, one in enumerate(receipts)
    ]


async def journal_s(path: Path, receipts: Sequence[KeptReceipt], tasks: int) -> float:
    """Store receipts with a number of tasks. Return the seconds until all are committed."""
    journal = open_journal(path)
    waiting = list(receipts)

    async def keep() -> None:
        while waiting:
            await journal.keep(waiting.pop())

    await journal.recall(meter="", address="")  # opens the file
    before = time.perf_counter()
    await asyncio.gather(*(keep() for _ in range(tasks)))
    took_s = time.perf_counter() - before
    await journal.close()
    return took_s


def report_journal(receipts: Sequence[KeptReceipt], folder: Path) -> None:
    alone_s, several_s = (asyncio.run(journal_s(folder / f"{tasks}.db", receipts, tasks)) for tasks in (1, TASKS))
    print(f"Journal, {len(receipts)} receipts committed to {folder.parent}")
    print(f"  one after the other {len(receipts) / alone_s:6.0f} a second   ", end="")
    print(f"{TASKS} tasks at once {len(receipts) / several_s:6.0f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds")
    quick = parser.parse_args().quick
    private = ec.generate_private_key(ec.SECP256R1())
    key = private.public_key()
    receipts = made(private, 2_000 if quick else 20_000)
    report_verifications(key, receipts)
    with tempfile.TemporaryDirectory() as folder:
        report_journal(kept(receipts[: 200 if quick else 2_000], hex_of(key)), Path(folder))


if __name__ == "__main__":
    main()
