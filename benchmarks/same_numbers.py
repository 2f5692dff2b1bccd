"""Whether two trees give the same numbers: `python benchmarks/same_numbers.py OTHER_CHECKOUT`.

Runs `benchmarks/probe_numbers.py` of both trees on this machine with this interpreter, and prints for every
item whether it is equal to the last bit. Exit code 1 when one differs or is missing in one tree. About two
minutes a tree.

    git worktree add --detach ../before COMMIT
    python benchmarks/same_numbers.py ../before                     # everything
    python benchmarks/same_numbers.py ../before export "proposals local"   # what has a word in its name
    python benchmarks/same_numbers.py ../before --long              # 50 proposals of dear searchers, too

A tree without a probe (before there was one) is asked by a copy of ours, which its code must fit:
`--probe FILE` names another one for OTHER_CHECKOUT.
"""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent.parent
PROBE = Path("benchmarks", "probe_numbers.py")


def numbers(tree: Path, probe: Path, words: list[str]) -> dict[str, Any]:
    """What a probe prints of a tree; everything runs on one thread, and nothing from the user's settings."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("NAS_")}
    environment |= {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(probe), *words]
    ran = subprocess.run(command, cwd=tree, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"The probe of {tree} ended with {ran.returncode}.")
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def difference(one: Any, other: Any) -> str:
    """In words, nothing for equal values."""
    if one == other:
        return ""
    if isinstance(one, list) and isinstance(other, list):
        first = next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if first is None:
            return f"{len(one)} values here, {len(other)} there"
        return f"from value {first + 1} of {len(one)} on: {one[first]} here, {other[first]} there"
    return f"{one} here, {other} there"


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).partition("\n")[0])
    parser.add_argument("other", type=Path, metavar="OTHER_CHECKOUT")
    parser.add_argument("words", nargs="*", help="items with one of these in their names; all without")
    parser.add_argument("--long", action="store_true", help="50 proposals of dear searchers, too")
    parser.add_argument("--probe", type=Path, help="the probe of the other tree, if it has none that fits")
    given = parser.parse_args()
    other, words = given.other.resolve(), [*given.words, *(["--long"] if given.long else [])]
    there = given.probe or (other / PROBE if (other / PROBE).exists() else HERE / PROBE)
    ours, theirs = numbers(HERE, HERE / PROBE, words), numbers(other, there.resolve(), words)
    different = 0
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        missing = "only there" if name not in ours else "only here" if name not in theirs else ""
        found = missing or difference(ours[name], theirs[name])
        different += bool(found)
        print(f"{'different' if found else 'equal':10} {name}{f': {found}' if found else ''}", flush=True)
    print(f"{len(ours)} items, {different} different")
    return int(different > 0 or not ours)


if __name__ == "__main__":
    sys.exit(main())
