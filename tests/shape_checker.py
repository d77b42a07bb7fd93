"""The type checker of the tests: beartype with the numeric tower (an int is a fine float)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
