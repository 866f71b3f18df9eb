"""Tables of statsmodels: as published, or a line that says what to install."""

import subprocess
import sys

import pytest

from tasks.statsmodels_data import check_installed, read
from tuner.config.classes import check_dataset
from tuner.config.layers import resolve
from tuner.errors import UserError


def test_tables_are_read_as_they_are_published():
    assert read("randhie").shape == (20190, 10)
    assert read("anes96").shape == (944, 11)


def test_nothing_is_said_where_it_is_installed():
    check_installed("randhie", None)


@pytest.mark.parametrize("name", ["randhie", "anes96"])
def test_where_it_is_absent_a_line_says_what_to_install_before_anything_starts(name, monkeypatch):
    monkeypatch.setattr("tasks.statsmodels_data.find_spec", lambda module: None)
    line = f"dataset {name} needs statsmodels: pip install statsmodels"
    for refused in (lambda: check_installed(name, None), lambda: read(name)):
        with pytest.raises(ValueError, match=f"^{line}$"):
            refused()
    with pytest.raises(UserError, match=line):
        check_dataset(resolve({"task.name": name}))


def test_the_check_imports_neither_torch_nor_statsmodels():
    script = "import sys, tasks.statsmodels_data as data\ndata.check_installed('randhie', None)\n"
    script += "print({'torch', 'statsmodels', 'pandas'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
