"""The operators on CUDA: kernels of `cuda_kernels/`, compiled and launched through CuPy."""
