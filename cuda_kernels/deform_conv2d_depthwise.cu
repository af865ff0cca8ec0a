// Deformable convolution of a group a channel: no columns, for a channel's filter reads that channel alone. A sampling
// location is found once for all channels of its offset group.
//
//   array     shape                              meaning
//   pixels    (N, H, W, C)                       input map
//   shift, mask                                  as in deform_conv2d.cu
//   weight    (taps, F)                          F a multiple of C: `multiplier` filters read each channel
//   output    (N * Ho * Wo, F)                   the same for its gradient
//   partial   (runs, F, taps)                    the weight's gradient, run of RUN output pixels by run
//
// Sizes are those of one group of one channel, so that a row's `columns` is its number among (output pixel, tap). With a
// multiplier VEC is 1. A block has THREADS threads: x over the filters of an offset group, VEC each, y over pixels or keys.

// The channel of its offset group that a filter reads; of VEC filters, without a multiplier, the first one's.
INLINE int channel_of(int f, int multiplier) { return VEC == 1 ? f / multiplier : f; }

INLINE index_t row_of(const ChunkSizes& s, index_t pixel, int tap, int offset_group) {
    return (pixel * (s.kernel_height * s.kernel_width) + tap) * s.offset_groups + offset_group;
}

// A block for blockDim.y output pixels, an offset group and blockDim.x * VEC of its filters. It finds the locations of as
// many taps at a time as there are threads in x.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
depthwise(const scalar_t* __restrict__ pixels, const real* __restrict__ shift, const real* __restrict__ mask,
          const scalar_t* __restrict__ weight, const scalar_t* __restrict__ bias, scalar_t* __restrict__ output, ChunkSizes s,
          long long count, int multiplier) {
    __shared__ Place places[THREADS];
    const int filters = s.channels * multiplier, of_group = s.offset_group_channels * multiplier;
    const int taps = s.kernel_height * s.kernel_width, steps = (of_group + blockDim.x * VEC - 1) / (blockDim.x * VEC);
    index_t task = blockIdx.x;
    const int v = (int(task % steps) * blockDim.x + threadIdx.x) * VEC;
    task /= steps;
    const int group = int(task % s.offset_groups), f = group * of_group + v;
    const index_t first = task / s.offset_groups * blockDim.y, pixel = first + threadIdx.y;
    const bool active = v < of_group && pixel < count;

    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const int own_tap = thread / blockDim.y;
    const index_t own_pixel = first + thread % blockDim.y;
    real sum[VEC] = {};
    for (int from = 0; from < taps; from += blockDim.x) {
        Place own = {};
        if (from + own_tap < taps && own_pixel < count) {
            find_place(own, s, shift, mask, ChunkRow(s, 0, row_of(s, own_pixel, from + own_tap, group)));
        }
        places[thread] = own;
        __syncthreads();
        const int here = min(int(blockDim.x), taps - from);
        for (int t = 0; active && t < here; ++t) {
            const Place& p = places[t * blockDim.y + threadIdx.y];
            Pack in[4];
            load_corners(in, p, pixels, channel_of(v, multiplier));
            const Pack factor = load(weight + index_t(from + t) * filters + f);
            real value[VEC] = {};
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int i = 0; i < VEC; ++i) value[i] += p.weight[k] * to_real(in[k].value[i]);
            }
#pragma unroll
            for (int i = 0; i < VEC; ++i) sum[i] += p.scale * value[i] * to_real(factor.value[i]);
        }
        __syncthreads();
    }
    if (!active) return;
    Pack out, added = {};
    if (bias != nullptr) added = load(bias + f);
#pragma unroll
    for (int i = 0; i < VEC; ++i) assign(out.value[i], sum[i] + to_real(added.value[i]));
    store(output + pixel * filters + f, out);
}

// A block for RUN output pixels, a tap and an offset group: the gradients of offset and mask, and of the weight the sum over
// the run. Each is left out where its array is null. With `bins` the entries are sorted too.
extern "C" __global__ void __launch_bounds__(THREADS, 5)
depthwise_places_backward(const scalar_t* __restrict__ grad, const scalar_t* __restrict__ pixels,
                          const real* __restrict__ shift, const real* __restrict__ mask, const scalar_t* __restrict__ weight,
                          real* __restrict__ grad_shift, real* __restrict__ grad_mask, real* __restrict__ partial,
                          int* begin, Entry* bins, ChunkSizes s, long long count, int multiplier) {
    __shared__ Place places[RUN];
    __shared__ real dots[RUN * 4];
    __shared__ real sums[THREADS * VEC];
    const int filters = s.channels * multiplier, of_group = s.offset_group_channels * multiplier;
    const int taps = s.kernel_height * s.kernel_width;
    index_t task = blockIdx.x;
    const int group = int(task % s.offset_groups);
    task /= s.offset_groups;
    const int tap = int(task % taps);
    const index_t run = task / taps, first = run * RUN;

    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    const bool finds = thread < RUN && first + thread < count;
    if (thread < RUN) {
        Place own = {};
        if (finds) {
            const ChunkRow row(s, 0, row_of(s, first + thread, tap, group));
            const Corners c = find_place(own, s, shift, mask, row);
            if (bins != nullptr) sort_row(s, row, c, own.scale, 0, begin, bins);
        }
        places[thread] = own;
        for (int k = 0; k < 4; ++k) dots[4 * thread + k] = 0;
    }
    __syncthreads();

    for (int base = 0; base < of_group; base += blockDim.x * VEC) {
        const int v = base + threadIdx.x * VEC, f = group * of_group + v;
        Pack factor = {};
        if (v < of_group) factor = load(weight + index_t(tap) * filters + f);
        real sum[VEC] = {};
        for (int r = threadIdx.y; r < RUN; r += blockDim.y) {  // every thread of a warp takes part in the shuffles
            const Place& p = places[r];
            real dot[4] = {};
            if (v < of_group && first + r < count) {
                Pack in[4];
                const Pack out = load(grad + (first + r) * filters + f);
                load_corners(in, p, pixels, channel_of(v, multiplier));
                real value[VEC] = {};
#pragma unroll
                for (int k = 0; k < 4; ++k) {
#pragma unroll
                    for (int i = 0; i < VEC; ++i) {
                        const real pixel = to_real(in[k].value[i]);
                        dot[k] += to_real(out.value[i]) * to_real(factor.value[i]) * pixel;
                        value[i] += p.weight[k] * pixel;
                    }
                }
#pragma unroll
                for (int i = 0; i < VEC; ++i) sum[i] += to_real(out.value[i]) * (p.scale * value[i]);
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                for (int lane = blockDim.x / 2; lane > 0; lane /= 2) dot[k] += __shfl_xor_sync(0xffffffffu, dot[k], lane);
                // A gradient that is infinite would make NaN of a pixel off the map.
                if (threadIdx.x == 0 && (p.bits >> k & 1)) dots[4 * r + k] += dot[k];
            }
        }
        if (partial == nullptr) continue;
#pragma unroll
        for (int i = 0; i < VEC; ++i) sums[thread * VEC + i] = sum[i];
        __syncthreads();
        if (threadIdx.y == 0 && v < of_group) {
            for (int y = 1; y < blockDim.y; ++y) {
#pragma unroll
                for (int i = 0; i < VEC; ++i) sum[i] += sums[(y * blockDim.x + threadIdx.x) * VEC + i];
            }
#pragma unroll
            for (int i = 0; i < VEC; ++i) partial[(run * filters + f + i) * taps + tap] = sum[i];
        }
        __syncthreads();
    }
    __syncthreads();

    if (!finds) return;
    const ChunkRow row(s, 0, row_of(s, first + thread, tap, group));
    const Corners c = row.corners(s, shift);
    write_place_gradients(s, row, c, dots + 4 * thread, places[thread].scale, grad_shift, grad_mask);
}

// The columns' gradient that an entry weighs: of its output pixel, times the tap's filters, all that read the channel.
struct FilteredGrads {
    const scalar_t *grad, *weight;
    int filters, taps, multiplier;
    Divisor by_taps;

    INLINE FilteredGrads at(const ChunkSizes&, int channel) const {
        return {grad + channel * multiplier, weight + channel * multiplier, filters, taps, multiplier, by_taps};
    }
    INLINE void add(real* sum, const Entry& entry) const {
        const index_t pixel = divide(entry.columns, by_taps), tap = entry.columns - pixel * taps;
        for (int j = 0; j < (VEC == 1 ? multiplier : 1); ++j) {
            const Pack out = load(grad + pixel * filters + j), factor = load(weight + tap * filters + j);
#pragma unroll
            for (int i = 0; i < VEC; ++i) sum[i] += entry.weight * (to_real(out.value[i]) * to_real(factor.value[i]));
        }
    }
};

// `gather` without columns.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
depthwise_gather(const scalar_t* __restrict__ grad, const scalar_t* __restrict__ weight, Entry* bins,
                 const int* __restrict__ begin, total_t* __restrict__ grad_pixels, ChunkSizes s, int blocks, int multiplier) {
    const int filters = s.channels * multiplier, taps = s.kernel_height * s.kernel_width;
    const FilteredGrads grads = {grad, weight, filters, taps, multiplier, s.by_taps};
    gather_keys(grads, bins, begin, grad_pixels, s, blocks, 0);
}
