"""The CPU paths: numba kernels over channels-last maps, products by oneDNN or MKL."""
