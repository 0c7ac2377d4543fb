// The Python side of the native code: what was built, and Philox words for the tests.
#include <pybind11/pybind11.h>

#include "philox.h"

namespace py = pybind11;

PYBIND11_MODULE(_info, m) {
  m.doc() = "How the native code was built; Philox words by the headers that every backend shares.";
  m.def(
      "build_info",
      [] {
        py::dict info;
        info["torch"] = RKA_TORCH;
        info["compiler"] = __VERSION__;
        info["cuda"] = RKA_CUDA;
        info["architectures"] = RKA_ARCHITECTURES;
        info["no_cuda"] = RKA_NO_CUDA;
        return info;
      },
      "torch and compiler of the build; CUDA version and architectures, or why there is no CUDA.");
  m.def(
      "philox_words",
      [](uint64_t seed, uint32_t group, uint32_t row, uint32_t head, uint32_t stream) {
        const rka::Words words = rka::philox4x32(seed, group, row, head, stream);
        return py::make_tuple(words.w[0], words.w[1], words.w[2], words.w[3]);
      },
      py::arg("seed"), py::arg("group"), py::arg("row"), py::arg("head"), py::arg("stream"),
      "The four 32-bit words of one counter.");
}
