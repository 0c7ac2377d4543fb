"""Triton's interpreter, which runs kernels on the CPU in the place of a GPU, made faster for tests.

Triton reads TRITON_INTERPRET when it is imported, and other tests compile kernels, hence a process
of their own for those that interpret: TRITON_INTERPRET=1 pytest tests/ops tests/interpreted
"""

import pytest

from rka_fast.ops.triton import interpreted


@pytest.fixture(scope="session", autouse=True)
def patched_once():
    """triton.language is patched once for a launch, not again for every function it calls.

    The interpreter spends half of its time on the latter.
    """
    if not interpreted():
        yield
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    original, language, patched = interpreter._patch_lang, interpreter.tl, set()

    class Scope:
        def __init__(self, function):
            found = {m.__name__ for m in function.__globals__.values() if m in modules}
            self.new = found - patched
            self.scope = original(function) if self.new else None
            patched.update(self.new)

        def restore(self):
            if self.scope is not None:
                self.scope.restore()
            patched.difference_update(self.new)

    modules = Modules((language, language.core))
    interpreter._patch_lang = Scope
    yield
    interpreter._patch_lang = original


class Modules(tuple):
    def __contains__(self, x):
        return any(x is module for module in self)
