"""The backends of `csrc/`: C++ for the CPU, CUDA C++ for NVIDIA devices."""
