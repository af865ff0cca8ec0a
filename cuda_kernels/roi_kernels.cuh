// The kernels of both RoI poolings, after the kernel file, which says what `Rule` is.

extern "C" __global__ void __launch_bounds__(THREADS, 3)
pool(const scalar_t* __restrict__ pixels, const real* __restrict__ boxes, const real* __restrict__ offset,
     scalar_t* __restrict__ out, Sizes s, int lanes) {
    pool_bins<Rule>(pixels, boxes, offset, out, s, lanes);
}

extern "C" __global__ void __launch_bounds__(THREADS, 3)
offset_backward(const scalar_t* __restrict__ grad, const scalar_t* __restrict__ pixels, const real* __restrict__ boxes,
                const real* __restrict__ offset, real* __restrict__ grad_offset, Sizes s, int lanes) {
    offset_gradient<Rule>(grad, pixels, boxes, offset, grad_offset, s, lanes);
}

extern "C" __global__ void __launch_bounds__(THREADS, 4)
list_bins(const real* __restrict__ boxes, const real* __restrict__ offset, unsigned* __restrict__ lists, Sizes s) {
    list_tiles<Rule>(boxes, offset, lists, s);
}

extern "C" __global__ void __launch_bounds__(TILE_THREADS, TILE_BLOCKS)
input_backward(const scalar_t* __restrict__ grad, const real* __restrict__ boxes, const real* __restrict__ offset,
               const unsigned* __restrict__ lists, scalar_t* __restrict__ grad_pixels, Sizes s, int lanes) {
    input_gradient<Rule>(grad, boxes, offset, lists, grad_pixels, s, lanes);
}
