"""The work of a study and its estimated time, in words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from kb_lens.progress import duration
from kb_lens.runs.units import Unit


def work_words(study: str, units: Mapping[str, Unit], left: Sequence[str]) -> str:
    """The number of units of a study, and how many are left, by benchmark.

    Args:
        study: Its name.
        units: Key -> a condition on a benchmark.
        left: The keys of the units without a result.
    """
    total, to_do = _by_benchmark(units.values()), _by_benchmark(units[key] for key in left)
    items = {unit.benchmark.key: len(unit.benchmark.items) for unit in units.values()}
    lines = [
        f"  {key} ({items[key]:,} items): {total[key]} conditions, {to_do[key]} to do"
        for key in total
    ]
    done = len(units) - len(left)
    head = f"{study}: {len(units)} units of work (a condition on a benchmark); {done} are done."
    return "\n".join([head, *lines])


def time_words(left: Sequence[Unit], seconds: Mapping[str, float]) -> str:
    """The estimated time of the units that are left.

    Args:
        left: The units without a result.
        seconds: Benchmark's key -> the seconds that the base model took.
    """
    if not left:
        return "Everything is measured already."
    counts = _by_benchmark(left)
    parts = [f"{count} of {key} at {seconds[key]:.3g} s" for key, count in counts.items()]
    total = sum(count * seconds[key] for key, count in counts.items())
    return (
        f"{len(left)} units are left, about {duration(total)} if each takes as long as the base "
        f"model's: {', '.join(parts)}. You may stop at any time: the same command resumes."
    )


def _by_benchmark(units: Iterable[Unit]) -> Counter[str]:
    return Counter(unit.benchmark.key for unit in units)
