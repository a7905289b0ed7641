"""The fault matrix as a page, and that nothing is missing from it."""

from __future__ import annotations

from itertools import product
from pathlib import Path

from tests.flow.matrix_cells import LEGS, MATRIX, Fault, NoCell, Transfer, cases
from tests.flow.matrix_page import page

PAGE = Path(__file__).parents[2] / "docs" / "fault-matrix.md"


def test_page_is_current() -> None:
    """It is what ``make pages`` would write."""
    assert PAGE.read_text() == page()


def test_every_place_has_a_cell() -> None:
    """Three transports, fourteen faults, two legs, two modes; what cannot be says why."""
    assert len(Fault) == 14
    everywhere = list(product(Transfer, Fault, LEGS, (False, True)))
    found = [
        MATRIX[transfer][fault].cell(leg, is_stream=mode)
        for transfer, fault, leg, mode in everywhere
    ]
    impossible = [cell for cell in found if isinstance(cell, NoCell)]
    assert all(cell.why for cell in impossible)
    assert len(list(cases())) + len(impossible) == len(everywhere)
    assert len(impossible) <= 14
