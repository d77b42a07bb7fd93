"""The titles of benchmarks and metrics in figures and reports.

Tables, files and options have short names; here ``crows_pairs`` is CrowS-Pairs.
"""

from __future__ import annotations

from collections.abc import Mapping

_BENCHMARKS = {
    "stereoset": "StereoSet",
    "crows_pairs": "CrowS-Pairs",
    "bbq": "BBQ",
    "copa": "COPA",
    "balanced_copa": "Balanced COPA",
    "openbookqa": "OpenBookQA",
    "arc_easy": "ARC-Easy",
    "arc_challenge": "ARC-Challenge",
    "mmlu": "MMLU",
    "hellaswag": "HellaSwag",
    "winogrande": "WinoGrande",
    "over_correction": "over-correction",
    "plain_text": "plain text",
}
_PROTOCOLS = ("instructed", "generated", "release")
_METRICS = {
    "acc": "accuracy",
    "acc_ambig": "accuracy, ambiguous",
    "acc_disambig": "accuracy, disambiguated",
    "acc_mirrored": "accuracy, mirror images",
    "acc_norm": "accuracy, length-normalised",
    "acc_original": "accuracy, COPA's items",
    "any": "any over-correction",
    "excess_any": "over-correction beyond controls",
    "icat": "ICAT",
    "icat_macro": "ICAT, macro",
    "icat_per_token": "ICAT a token",
    "icat_per_token_macro": "ICAT a token, macro",
    "lms": "LMS",
    "lms_macro": "LMS, macro",
    "logprob_per_token": "log-probability a token",
    "s_AMB": "bias score, ambiguous",
    "s_DIS": "bias score, disambiguated",
    "ss": "SS",
    "ss_macro": "SS, macro",
    "stereotype_share": "stereotype share",
    "stereotype_share_shared": "stereotype share, shared words",
    "unknown_ambig": "unknown, ambiguous",
    "unknown_disambig": "unknown, disambiguated",
}
_WORDS = {"ses": "SES", "x": "\N{MULTIPLICATION SIGN}"}
"""Words in names with another spelling in titles."""


def benchmark_title(key: str) -> str:
    """The title of a benchmark.

    Args:
        key: A result's key: the benchmark's name, its protocol if not the original, and the name of
            your own file.
    """
    key, _, file = key.partition("-")
    name, rest = _known(key, _BENCHMARKS)
    words = _in_words(rest)
    protocol = words.pop() if words and words[-1] in _PROTOCOLS else ""
    # BBQ's categories are part of BBQ.
    between = " " if name == _BENCHMARKS["bbq"] else ", "
    title = between.join(filter(None, [name, " ".join(words)]))
    title = ", ".join(filter(None, [title, protocol]))
    return f"{title} ({file})" if file else title


def metric_title(metric: str) -> str:
    """The title of a metric, followed by its bias type if it has one."""
    name, rest = _known(metric, _METRICS)
    return ", ".join(filter(None, [name, " ".join(_in_words(rest))]))


def _known(name: str, titles: Mapping[str, str]) -> tuple[str, str]:
    """The title of the longest known beginning, and the rest; else the name in words."""
    beginnings = [known for known in titles if name == known or name.startswith(f"{known}_")]
    if not beginnings:
        return " ".join(_in_words(name)), ""
    longest = max(beginnings, key=len)
    return titles[longest], name[len(longest) + 1 :]


def _in_words(name: str) -> list[str]:
    return [_WORDS.get(word, word) for word in name.split("_") if word]
