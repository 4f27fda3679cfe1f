"""The run-time type checker of the tests: beartype, which takes an int where a float is due, as PEP 484 says."""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
