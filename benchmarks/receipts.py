"""Measures the check and the storage of receipts. The results are ratios within one run.

Usage: python benchmarks/receipts.py [--quick]

* Verifications: different receipts of one meter are parsed and verified on one core, and also judged. The comparison is
  ``cryptography`` alone with a prepared key, signed bytes and signature.
* File: ``iem-dcr verify`` checks as many receipts as a site has in three years, and a tenth of them.
* Journal: receipts are committed one by one, and by several tasks at once. The comparison is ``sqlite3`` alone with the
  same pragmas, the same table and one commit per receipt.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import sqlite3
import statistics
import subprocess
import sys
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
    """Return a key in the meter's format."""
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


def report_file(key: ec.EllipticCurvePublicKey, receipts: Sequence[Signed], folder: Path) -> None:
    """Print the time of the command for a file of receipts."""
    path = folder / "receipts.txt"
    path.write_text("".join(f"{one.text}\n" for one in receipts), encoding="utf-8")
    command = [sys.executable, "-m", "iem_dcr", "verify", str(path), "--key", hex_of(key), "--json"]
    before_s, before_cpu = time.perf_counter(), os.times()
    with (folder / "checked.jsonl").open("w") as out:
        done = subprocess.run(command, stdout=out, check=False)  # noqa: S603  our own program
    took_s, after_cpu = time.perf_counter() - before_s, os.times()
    if done.returncode != 0:
        raise SystemExit(f"the file was not found valid (exit {done.returncode})")
    used_s = sum(after_cpu[2:4]) - sum(before_cpu[2:4])
    peak_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024  # of the largest file so far, the last
    print(f"A file of {len(receipts)} receipts, {path.stat().st_size / 1e6:.0f} MB, by iem-dcr verify")
    print(f"  {took_s:.1f} s, {len(receipts) / took_s:.0f} a second, {used_s / took_s:.1f} cores busy", end="")
    print(f"   {used_s:.1f} s of CPU, {len(receipts) / used_s:.0f} a second and core, {peak_mib:.0f} MiB at most")


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


def bare_s(path: Path, like: Path, count: int) -> float:
    """Copy a journal into a file with the same tables and pragmas, one commit per receipt. Return the seconds."""
    source = sqlite3.connect(like)
    rows = source.execute("SELECT * FROM receipts LIMIT ?", (count,)).fetchall()
    tables = [sql for (sql,) in source.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL ORDER BY rowid")]
    source.close()
    bare = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"):
        bare.execute(f"PRAGMA {pragma}")
    for sql in tables:
        bare.execute(sql)
    insert = f"INSERT INTO receipts VALUES ({', '.join('?' * len(rows[0]))})"  # noqa: S608  only the number of columns varies
    before = time.perf_counter()
    for row in rows:
        bare.execute("BEGIN IMMEDIATE")
        bare.execute(insert, row)
        bare.execute("COMMIT")
    took_s = time.perf_counter() - before
    bare.close()
    if len(rows) != count:
        raise SystemExit(f"{len(rows)} receipts of {count} are in the journal")
    return took_s


def report_journal(receipts: Sequence[KeptReceipt], folder: Path) -> None:
    """Print commits per second."""
    count = len(receipts)
    alone_s = asyncio.run(journal_s(folder / "alone.db", receipts, 1))
    several_s = asyncio.run(journal_s(folder / "several.db", receipts, TASKS))
    plain_s = bare_s(folder / "bare.db", folder / "alone.db", count)
    print(f"Journal, {count} receipts committed to {folder.parent}")
    print(
        f"  one after the other {count / alone_s:6.0f} a second   {TASKS} tasks at once {count / several_s:6.0f}",
        end="",
    )
    print(f"   sqlite3 alone {count / plain_s:6.0f}")
    print(f"  ratio one after the other {plain_s / alone_s:.2f}, at once {plain_s / several_s:.2f}")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="a few seconds instead of a minute")
    quick = parser.parse_args().quick
    private = ec.generate_private_key(ec.SECP256R1())
    key = private.public_key()
    receipts = made(private, 2_000 if quick else 290_000)
    report_verifications(key, receipts[:20_000])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for count in (len(receipts) // 10, len(receipts)):
            report_file(key, receipts[:count], folder)
        report_journal(kept(receipts[: 200 if quick else 2_000], hex_of(key)), folder)


if __name__ == "__main__":
    main()
