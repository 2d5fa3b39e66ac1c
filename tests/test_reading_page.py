"""docs/reading.md is one page, and what it says of options, verbs and names is so."""

import re
from pathlib import Path

from trcompress.checkpoint.names import parse_recurrent
from trcompress.cli.verbs import VERBS
from trcompress.cli.wording import options_of

PAGE = (Path(__file__).parent.parent / "docs" / "reading.md").read_text()


def test_every_option_on_the_page_exists() -> None:
    known = {option for verb in VERBS for option in options_of(verb).values()}
    named = set(re.findall(r"--[a-z][a-z-]*[a-z]", PAGE))
    assert {"--ignore-unknown", "--drop", "--skip-objects", "--model"} <= named <= known


def test_every_name_in_the_table_is_read() -> None:
    for name in ("weight_ih", "w_ih", "enc_w_ih", "rnns.0.weight_ih_l0", "cells.1.weight_ih_l0_reverse"):
        assert parse_recurrent(name) is not None
    assert len(PAGE.splitlines()) < 100
