"""What `import rka_fast` loads and leaves alone, and what the package exports."""

import json
from functools import cache

import pytest
from support.processes import python

AFTER_IMPORT = """
import json, os, sys, torch, torch.utils.flop_counter
before = {name.partition('.')[0] for name in sys.modules}
import rka_fast
loaded, maps = set(sys.modules), ''
if os.path.exists('/proc/self/maps'):
    with open('/proc/self/maps') as file:
        maps = file.read()
rka_fast.available_backends()
facts = {
    'packages': sorted({n.partition('.')[0] for n in loaded} - before - sys.stdlib_module_names),
    'maps': bool(maps),
    'libraries': [name for name in ('_cpp', '_cuda', '_info') if f'/{name}.' in maps],
    'compiler': 'torch._dynamo' in loaded,
    'of commands': [n for n in ('polars', 'matplotlib', 'accelerate', 'tyro') if n in sys.modules],
}
print(json.dumps(facts))
"""

EXPORTS = """
import sys, types
sys.modules['triton'] = None
import rka_fast, rka_fast.info
assert 'reference' in rka_fast.available_backends()
assert set(rka_fast.__all__) <= set(dir(rka_fast))
values = [getattr(rka_fast, name) for name in rka_fast.__all__]
assert not any(isinstance(value, types.ModuleType) for value in values)
assert not {f'rka_fast.{n}' for n in rka_fast.__all__} & set(sys.modules)
from rka_fast import *
assert fit is rka_fast.fit and Run is rka_fast.Run
try: rka_fast.nothing
except AttributeError as error: print(error)
"""


@cache
def after_import() -> dict:
    """Facts of one fresh process, in which warnings are errors."""
    done = python("-W", "error", "-c", AFTER_IMPORT)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_of_other_packages_only_torch_is_loaded():
    """And what torch loads itself, for its counter of operations too; not its compiler."""
    assert after_import()["packages"] == ["rka_fast"]
    assert not after_import()["compiler"]


def test_what_only_the_commands_need_is_not_loaded():
    assert after_import()["of commands"] == []


def test_no_library_of_ours_is_loaded():
    if not after_import()["maps"]:
        pytest.skip("no /proc/self/maps")
    assert after_import()["libraries"] == []


def test_what_the_package_exports():
    """Without Triton too."""
    done = python("-c", EXPORTS)
    assert done.returncode == 0, done.stderr
    assert "has no attribute 'nothing'" in done.stdout
