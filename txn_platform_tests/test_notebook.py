"""The example notebook, as a reader runs it: its week is published, then each cell is executed."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOK = Path(__file__).parents[1] / "docs/examples/fraud.ipynb"
# Rows of the week and share of fraud by the notebook's settings, give or take what chance makes.
ROWS = range(110_000, 140_000)
FRAUD = (0.008, 0.012)


@pytest.mark.long
def test_a_model_learns_fraud_from_a_week_of_published_transactions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Of the extra `docs`, which `make test-long` installs.
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(NOTEBOOK, 4)
    (publish,) = re.findall(r"```sh\n(.+?)```", notebook.cells[0].source, re.DOTALL)
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    monkeypatch.setenv("PATH", programs)
    subprocess.run(["bash", "-euc", publish], check=True, timeout=1_800)
    monkeypatch.setenv("TXN_HOME", str(tmp_path / ".txn"))
    asked = "(transactions.height, float(truth.mean()), float(average_precision))"
    notebook.cells.append(nbformat.v4.new_code_cell(asked))
    elsewhere = tmp_path / "notebooks"
    elsewhere.mkdir()
    NotebookClient(
        notebook, timeout=900, kernel_name="python3", resources={"metadata": {"path": elsewhere}}
    ).execute()
    last = notebook.cells.pop()
    nbformat.write(notebook, elsewhere / NOTEBOOK.name)
    rows, fraud, average_precision = ast.literal_eval(last.outputs[0]["data"]["text/plain"])
    assert rows in ROWS
    assert FRAUD[0] < fraud < FRAUD[1]
    # Ten times better than chance, and yet no column gives the fraud away.
    assert 10 * fraud < average_precision < 0.5
    shown = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert [kind for output in shown for kind in output.get("data", {})].count("image/png") == 1
    assert not [output for output in shown if output["output_type"] in {"error", "stream"}]
