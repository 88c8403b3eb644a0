"""runner.py - runs the fault table; see scripts/test-faults."""

import argparse
import ctypes
import importlib
import os
import sys
import time
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent / "peers"))
sys.path.insert(0, str(HERE.parent / "engines"))
sys.path.insert(0, str(HERE.parent / "integration"))

import hosts  # noqa: E402
import operators_table  # noqa: E402
from rig import TABLE, Run  # noqa: E402

PR_SET_CHILD_SUBREAPER = 36
SECOND_TRIES = 3  # a busy machine is at times slower than any bound
FAMILIES = ("process", "node", "network", "protocol", "client", "resource", "memory", "operator")


def load_table():
    for family in FAMILIES:
        if (HERE / f"{family}_faults.py").exists():
            importlib.import_module(f"{family}_faults")
    ids = [row.id for row in TABLE]
    assert len(ids) == len(set(ids)), "two faults with one id"


def run_one(row, seed, minutes):
    """(complaints, figures, seconds)"""
    run = Run(row, seed, minutes)
    began = time.monotonic()
    complaints = []
    try:
        row.function(run)
        complaints += run.verdict()
    except Exception as failure:  # pylint: disable=broad-except
        complaints += run.complaints
        complaints.append(f"{type(failure).__name__}: {failure}")
        if not isinstance(failure, AssertionError):
            complaints.append(traceback.format_exc())
    complaints += run.close(bool(complaints))
    return complaints, run.figures, time.monotonic() - began


def show(row, complaints, figures, seconds):
    verdict = "ok  " if not complaints else "FAIL"
    extra = "; ".join(f"{name} {value}" for name, value in figures.items())
    print(f"{verdict} {row.id:<4} {row.what} [{row.how}] {extra} ({seconds:.1f} s)", flush=True)
    for complaint in complaints:
        print("       " + complaint.replace("\n", "\n       ")[:4000], flush=True)


def wanted(args):
    rows = TABLE
    if args.quick:
        rows = [row for row in rows if row.quick]
    if args.only:
        names = args.only.split(",")
        unknown = set(names) - {row.id for row in TABLE} - {
            row.id.rstrip("0123456789abcdef") for row in TABLE}
        if unknown:
            sys.exit(f"test-faults: no such fault: {', '.join(sorted(unknown))}; --list shows them")
        rows = [row for row in rows
                if row.id in names or row.id.rstrip("0123456789abcdef") in names]
    return rows


def holds(row, seed, args):
    """Runs a row and shows it."""
    if row.root and not hosts.available():
        show(row, ["needs network namespaces, which this machine does not allow"], {}, 0)
        return False
    result = run_one(row, seed, args.minutes)
    show(row, *result)
    return not result[0]


def without_root(rows):
    """The rows for a user without namespaces; the others are reported as skipped."""
    for row in rows:
        if row.root:
            print(f"skip {row.id:<4} {row.what}: only root can make namespaces here", flush=True)
    return [row for row in rows if not row.root]


def main():
    parser = argparse.ArgumentParser(prog="test-faults", description="The fault table.")
    parser.add_argument("--only", metavar="ID,ID", help="these faults; a letter is its family")
    parser.add_argument("--quick", action="store_true", help="the subset that scripts/test runs")
    parser.add_argument("--list", action="store_true", help="show the table and run nothing")
    parser.add_argument("--seed", type=int, default=None, help="for what is drawn at random")
    parser.add_argument("--repeat", type=int, default=1, help="run each so many times")
    parser.add_argument("--second-try", action="store_true",
                        help=f"run up to {SECOND_TRIES} that failed again; name what passes then")
    parser.add_argument("--docs", choices=("check", "write"),
                        help="compare (or write) the table in docs/operations.md; run nothing")
    parser.add_argument("--soak", action="store_true", help="faults at random, see --minutes")
    parser.add_argument("--minutes", type=float, help="length of the soak (10), or of G7's silence (1)")
    args = parser.parse_args()
    load_table()
    if args.docs:
        return operators_table.main(TABLE, args.docs)
    if args.list:
        for row in wanted(args):
            mark = ("q" if row.quick else " ") + ("r" if row.root else " ")
            print(f"{row.id:<4} {mark} {row.what} [{row.how}]")
        return 0
    seed = args.seed if args.seed is not None else int(time.time()) % 100000
    print(f"seed {seed}", flush=True)
    if args.soak:
        import soak  # pylint: disable=import-outside-toplevel
        return soak.main(seed, args.minutes or 10, args.only.split(",") if args.only else None)
    # Masters that start their successors end before them; those come to us.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    rows = [row for row in wanted(args) for _ in range(args.repeat)]
    if args.quick and os.geteuid() != 0 and not hosts.available():
        rows = without_root(rows)
    failed = [row for row in rows if not holds(row, seed, args)]
    passed = len(rows) - len(failed)
    if args.second_try and len(failed) <= SECOND_TRIES:
        for row in failed:
            print(f"second try: {row.id}", flush=True)
        failed, tried = [row for row in failed if not holds(row, seed, args)], failed
        passed += len(tried) - len(failed)
        for row in tried:
            if row not in failed:
                print(f"flaky: {row.id}", flush=True)
    print(f"{passed} passed, {len(failed)} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
