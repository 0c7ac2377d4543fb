"""What the compiler made of the CUDA kernels, for every architecture of the build."""

import re

import cuda_report
import pytest

from rka_fast import native


def test_the_report_is_read_as_cuobjdump_writes_it(tmp_path):
    tool = tmp_path / "cuobjdump"
    tool.write_text(
        "#!/bin/sh\ncat <<'END'\n"
        "arch = sm_80\n"
        " Function _ZN3rka15backward_kernelILb1EEEvNS0_7ProblemE:\n"
        "  REG:128 STACK:0 SHARED:0 LOCAL:24 CONSTANT[0]:1032 TEXTURE:0\n"
        " Function _ZN3rka4cuda20strip_forward_kernelILi7EEEvNS0_7ProblemE:\n"
        "  REG:126 STACK:64 SHARED:0 LOCAL:0 CONSTANT[0]:1032 TEXTURE:0\n"
        " Function _ZN3rka4cuda32strip_covariance_backward_kernelILi8EEEvNS0_7ProblemE:\n"
        "  REG:96 STACK:136 SHARED:0 LOCAL:0 CONSTANT[0]:1032 TEXTURE:0\n"
        " Function _ZN3rka4cuda3_GLOBAL_19long_forward_kernelENS0_7ProblemENS0_9WorkspaceEi:\n"
        "  REG:127 STACK:8 SHARED:0 LOCAL:0 CONSTANT[0]:1132 TEXTURE:0\n"
        "END\n"
    )
    tool.chmod(0o755)
    expected = [
        ("sm_80", "backward, L in shared memory", 128, 0, 24),
        ("sm_80", "forward, at most 56 rows", 126, 64, 0),
        ("sm_80", "covariance backward, at most 64 rows", 96, 136, 0),
        ("sm_80", "long: attention", 127, 8, 0),
    ]
    found = cuda_report.usages(str(tool), tmp_path)
    assert found == expected
    assert [u.too_much for u in found] == [True, False, True, False]


def test_registers_suffice():
    library, tool = native.find("_cuda"), cuda_report.cuobjdump()
    if library is None or tool is None:
        why = native.build_info().get("no_cuda") or "there is no cuobjdump"
        pytest.skip(f"needs the built CUDA library and cuobjdump: {why}")
    usages = cuda_report.usages(tool, library)
    wanted = native.build_info()["architectures"]  # such as 8.0 8.6+PTX; by name or of the GPU else
    architectures = {u.architecture for u in usages}
    named = {f"sm_{major}{minor}" for major, minor in re.findall(r"(\d+)\.(\d)", wanted)}
    assert named <= architectures and len(usages) == 22 * len(architectures) > 0
    for u in usages:
        assert not u.too_much, u
        # Two blocks of 256 threads, four of 128 or five; or three, as shared memory holds no more.
        three = u.kernel == "backward, at most 64 rows" or u.kernel.startswith("long, backward")
        assert u.registers <= (168 if three else 128), u
