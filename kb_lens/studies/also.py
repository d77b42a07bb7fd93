"""Further methods of the study ``methods``: trained checkpoints given on the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kb_lens.files import check_file_name
from kb_lens.interventions.trained import Trained
from kb_lens.models.hooked import HookedModel
from kb_lens.models.sources import check_reachable, checkpoint_source
from kb_lens.rows import shown
from kb_lens.studies.baselines import FAMILIES
from kb_lens.studies.methods import CONTROLS, PROMPTS

_STUDY = "methods"
"""The study that compares methods; the others vary how neurons are found and scaled."""
_TAKEN = frozenset({"base", *PROMPTS})
_FAMILIES = (
    *("ablation", "suppression", "enhancement", "self-debiasing", "second pass"),
    *(*FAMILIES, *CONTROLS.values()),
)
"""First words of the study's own conditions, to refuse a name that is taken before the work."""


def read_also(options: Sequence[str], study: str) -> dict[str, str]:
    """Name -> checkpoint, from ``NAME=CHECKPOINT``.

    Raises:
        ValueError: If the study has no methods, an option has no name or no checkpoint, or a name
            is given twice or taken by another condition.
    """
    if options and study != _STUDY:
        raise ValueError(
            f"--also is {shown(','.join(options))}: only the study {_STUDY!r} takes further "
            f"methods, not {study!r}. Leave it out."
        )
    checkpoints: dict[str, str] = {}
    for text in options:
        name, _, checkpoint = (part.strip() for part in text.partition("="))
        if not (name and checkpoint):
            raise ValueError(f"--also is {shown(text)}: write NAME=CHECKPOINT.")
        _check_name(name, checkpoints)
        checkpoints[name] = checkpoint
    return checkpoints


def _check_name(name: str, others: Mapping[str, str]) -> None:
    """Refuse a name that a further condition cannot have."""
    try:
        check_file_name(name, "condition")
    except ValueError as error:
        raise ValueError(f"--also: {error}") from error
    if name in others:
        raise ValueError(f"--also has {shown(name)} twice: give each method its own name.")
    if name in _TAKEN or name.startswith(_FAMILIES):
        raise ValueError(
            f"--also names a method {shown(name)}, like one of the study's own: choose another "
            "name, such as that of the training."
        )


def check_checkpoints(checkpoints: Mapping[str, str]) -> None:
    """Raise `ValueError` if a checkpoint does not exist; nothing is loaded."""
    for name, checkpoint in checkpoints.items():
        try:
            check_reachable(checkpoint_source(checkpoint))
        except ValueError as error:
            raise _of(name, checkpoint, error) from error


def load_also(
    model: HookedModel, checkpoints: Mapping[str, str], *, trust_remote_code: bool = False
) -> dict[str, Trained]:
    """The methods, by name; each checkpoint is loaded once, see `Trained.of`."""
    trained: dict[str, Trained] = {}
    for name, checkpoint in checkpoints.items():
        try:
            trained[name] = Trained.of(
                model, checkpoint, name=name, trust_remote_code=trust_remote_code
            )
        except ValueError as error:
            raise _of(name, checkpoint, error) from error
        _check_apart(name, trained)
    return trained


def weights_of(trained: Mapping[str, Trained]) -> str | None:
    """The weights of each name in words; None if there are none."""
    texts = [f"{name} {change.weights}" for name, change in sorted(trained.items())]
    return ", ".join(texts) or None


def _check_apart(name: str, trained: Mapping[str, Trained]) -> None:
    """Refuse the same weights under two names: the method would be ranked twice."""
    for other, change in trained.items():
        if other != name and change.weights == trained[name].weights:
            raise ValueError(f"--also gives the same weights two names, {other!r} and {name!r}.")


def _of(name: str, checkpoint: str, error: ValueError) -> ValueError:
    return ValueError(f"--also, {shown(f'{name}={checkpoint}')}: {error}")
