"""What a study is about to do and about how long it will take, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kb_lens.progress import duration
from kb_lens.runs.units import Unit


def work_words(study: str, units: Mapping[str, Unit], left: Sequence[str]) -> str:
    """How many units a study has and how many are to be done, by benchmark.

    Args:
        study: Its name.
        units: Key -> a condition on a benchmark.
        left: The keys of those that have no result yet.
    """
    total, to_do = _by_benchmark(units.values()), _by_benchmark(units[key] for key in left)
    items = {unit.benchmark.key: len(unit.benchmark.items) for unit in units.values()}
    lines = [
        f"  {key} ({items[key]:,} items): {total[key]} conditions, {to_do[key]} to do"
        for key in total
    ]
    done = len(units) - len(left)
    head = f"{study}: {len(units)} units of work, a condition on a benchmark each; {done} are done."
    return "\n".join([head, *lines])


def time_words(left: Sequence[Unit], seconds: Mapping[str, float]) -> str:
    """About how long the units that are left take.

    Args:
        left: They have no result yet.
        seconds: Benchmark's key -> what the model as it is took for it.
    """
    if not left:
        return "Everything is measured already."
    counts = _by_benchmark(left)
    parts = [f"{count} of {key} at {seconds[key]:.3g} s" for key, count in counts.items()]
    total = sum(count * seconds[key] for key, count in counts.items())
    return (
        f"{len(left)} units are left, about {duration(total)} by what the model as it is took: "
        f"{', '.join(parts)}. Stop whenever you like: the same command goes on."
    )


def _by_benchmark(units: Iterable[Unit]) -> Counter[str]:
    return Counter(unit.benchmark.key for unit in units)
