"""Imports ahead are imports, and what cannot be imported is told by the import statement."""

import subprocess
import sys
import threading

import pytest

from difflab.core.imports import import_ahead


def test_a_module_is_there_when_the_thread_has_ended_and_an_import_waits_for_it(tmp_path):
    (tmp_path / "slow_module.py").write_text("import time; time.sleep(0.3); value = 7")
    code = (
        "import sys; from difflab.core.imports import import_ahead; import_ahead('slow_module')\n"
        "import slow_module; assert slow_module.value == 7"
    )
    subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{code}"], check=True
    )


def test_a_missing_module_is_an_error_of_the_import_statement_only(tmp_path, monkeypatch, capfd):
    (tmp_path / "after_it.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    import_ahead("no_such_module_at_all", "after_it")
    for thread in threading.enumerate():
        if thread.name == "import ahead":
            thread.join()
    assert "after_it" not in sys.modules and capfd.readouterr().err == ""
    with pytest.raises(ModuleNotFoundError):
        import no_such_module_at_all  # noqa: F401
