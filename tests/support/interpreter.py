"""Triton's interpreter, which runs kernels on the CPU in place of a GPU, made faster for tests.

Triton reads TRITON_INTERPRET when it is imported, and other tests compile kernels, hence a process
of their own for those that interpret: TRITON_INTERPRET=1 pytest tests/ops tests/interpreted
"""

import numpy as np
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


@pytest.fixture(scope="session", autouse=True)
def scalars_are_numbers():
    """Triton 3.6 keeps scalars in arrays of one element, of which numpy 2.4 and later take no int;
    Triton 3.8 does this itself."""
    if not interpreted():
        yield
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    original = interpreter._patch_lang_tensor

    def patch(tensor, scope):
        original(tensor, scope)
        scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.item()))

    interpreter._patch_lang_tensor = patch
    yield
    interpreter._patch_lang_tensor = original


@pytest.fixture(scope="session", autouse=True)
def tf32_is_cut():
    """Products in tf32 see 19 bits of each float32, as on the device; interpreted, they see all."""
    if not interpreted():
        yield
        return
    interpreter = pytest.importorskip("triton.runtime.interpreter")
    builder, tf32 = interpreter.InterpreterBuilder, interpreter._ir.INPUT_PRECISION.TF32
    original = builder.create_dot

    def create_dot(self, a, b, d, precision, *more):
        if precision == tf32:
            a, b = (type(x)(cut(x.data), x.dtype) for x in (a, b))
        return original(self, a, b, d, precision, *more)

    builder.create_dot = create_dot
    yield
    builder.create_dot = original


def cut(x):
    """A float32 without the 13 bits that tf32 has not."""
    return (x.view(np.uint32) & np.uint32(0xFFFFE000)).view(np.float32)


class Modules(tuple):
    def __contains__(self, x):
        return any(x is module for module in self)
