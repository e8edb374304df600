"""Native CPU kernels: one C++ library in variants by instruction set, and the runner over it. Needs no torch."""
