// Deformable convolution (paper, section 2.1; modulated: DCN v2, section 2.1): everything but the matrix products.
//
// columns = S X, with S sparse: a row for each (output pixel, tap, offset group), four entries, the same for all channels
// of the offset group. A row's place and weights are therefore computed once, not once a channel; maps are channels-last
// and channels are read 16 bytes a thread. The gradient of X is S^T times the columns' gradient: the entries, put into bins
// by input pixel, are gathered in a fixed order, without atomic additions of floats.
//
//   array     shape                                       meaning
//   pixels    (N, H, W, C)                                input map
//   shift     (N, 2 * offset groups * taps, Ho, Wo)       offsets, y before x
//   mask      (N, offset groups * taps, Ho, Wo)           modulation, or null
//   columns   (pixels of the chunk, groups, taps, C / groups)
//   bins      (images of the chunk, capacity)             the entries of S that weigh something, key by key
//   begin     (images of the chunk, keys + 1)             where the bin of each key begins, and the last one ends
//   counted   (images of the chunk)                       rows of the image whose entries have been counted
//
// A key is an input pixel with an offset group; an image has H * W * offset groups of them. A chunk is a run of output
// pixels, whole images or part of one, counted over the batch from `start`; `rows` = its pixels * taps * offset groups.
// The entries are put into bins by a counting sort: one kernel counts them, its last block an image turns the counts
// into a running sum, another kernel fills the bins, and the bins are put in order where they are read.

// Where a channel stands in the columns of a pixel and tap: behind the other taps of the groups before its own. VEC
// channels never straddle two groups.
INLINE index_t across(const ChunkSizes& s, int channel) {
    const int taps = s.kernel_height * s.kernel_width;
    return index_t(divide(channel, s.by_group_channels)) * (taps - 1) * s.group_channels + channel;
}

// The places of a block's ROWS rows, found once by its first threads, and with `begin` their entries counted, or with
// `bins` sorted. Beyond the last row nothing is read.
INLINE void find_places(Place* places, const ChunkSizes& s, const real* shift, const real* mask, index_t start, index_t first,
                        index_t rows, index_t first_image, int* begin, Entry* bins) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (thread < ROWS) {
        Place p = {};
        if (first + thread < rows) {
            const ChunkRow row(s, start, first + thread);
            const Corners c = find_place(p, s, shift, mask, row);
            if (begin != nullptr) sort_row(s, row, c, p.scale, first_image, begin, bins);
        }
        places[thread] = p;
    }
    __syncthreads();
}

// Writes the columns of a block's rows. Threads: x over the channels of an offset group, VEC each; y over the rows.
INLINE void write_columns(const Place* places, const scalar_t* pixels, scalar_t* columns, const ChunkSizes& s, index_t first,
                          index_t rows) {
    for (int r = threadIdx.y; r < ROWS && first + r < rows; r += blockDim.y) {
        const Place& p = places[r];
        for (int v = threadIdx.x * VEC; v < s.offset_group_channels; v += blockDim.x * VEC) {
            Pack in[4], out;
            load_corners(in, p, pixels, v);
            real sum[VEC] = {};
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int i = 0; i < VEC; ++i) sum[i] += p.weight[k] * to_real(in[k].value[i]);
            }
#pragma unroll
            for (int i = 0; i < VEC; ++i) assign(out.value[i], p.scale * sum[i]);
            store(columns + p.columns + across(s, p.channel + v), out);
        }
    }
}

// Samples the columns; a block has ROWS rows.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
sample(const scalar_t* __restrict__ pixels, const real* __restrict__ shift, const real* __restrict__ mask,
       scalar_t* __restrict__ columns, ChunkSizes s, long long start, long long rows, long long first_image) {
    __shared__ Place places[ROWS];
    const index_t first = index_t(blockIdx.x) * ROWS;
    find_places(places, s, shift, mask, index_t(start), first, index_t(rows), index_t(first_image), nullptr, nullptr);
    write_columns(places, pixels, columns, s, first, index_t(rows));
}

// The same, and the first half of the sort: counts the entries in `begin`, all zeros before. A kernel apart, for it takes
// more registers.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
sample_and_count(const scalar_t* __restrict__ pixels, const real* __restrict__ shift, const real* __restrict__ mask,
                 scalar_t* __restrict__ columns, int* begin, int* counted, ChunkSizes s, long long start, long long rows,
                 long long first_image) {
    __shared__ Place places[ROWS];
    const index_t first = index_t(blockIdx.x) * ROWS;
    find_places(places, s, shift, mask, index_t(start), first, index_t(rows), index_t(first_image), begin, nullptr);
    write_columns(places, pixels, columns, s, first, index_t(rows));
    const index_t last = first + ROWS < rows ? first + ROWS : index_t(rows);
    add_up_complete_images(s, index_t(start), first, last, index_t(rows), begin, counted, index_t(first_image));
}

// The gradients of offsets and mask: four dot products over the channels of an offset group, of the columns' gradient with
// the pixels at the four corners; x threads a row, added up by shuffles. With `bins` the entries are sorted too. Threads as
// in `sample`.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
places_backward(const scalar_t* __restrict__ grad_columns, const scalar_t* __restrict__ pixels,
                const real* __restrict__ shift, const real* __restrict__ mask, real* __restrict__ grad_shift,
                real* __restrict__ grad_mask, int* begin, Entry* bins, ChunkSizes s, long long start, long long rows,
                long long first_image) {
    __shared__ Place places[ROWS];
    __shared__ real dots[ROWS * 4];
    const index_t first = index_t(blockIdx.x) * ROWS;
    find_places(places, s, shift, mask, index_t(start), first, index_t(rows), index_t(first_image), begin, bins);
    for (int r = threadIdx.y; r < ROWS; r += blockDim.y) {  // every thread of a warp takes part in the shuffles
        const Place& p = places[r];
        real dot[4] = {};
        for (int v = threadIdx.x * VEC; first + r < rows && v < s.offset_group_channels; v += blockDim.x * VEC) {
            Pack grad = {}, in[4];
            if (p.bits) grad = load(grad_columns + p.columns + across(s, p.channel + v));
            load_corners(in, p, pixels, v);
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int i = 0; i < VEC; ++i) dot[k] += to_real(grad.value[i]) * to_real(in[k].value[i]);
            }
        }
#pragma unroll
        for (int k = 0; k < 4; ++k) {
            for (int lane = blockDim.x / 2; lane > 0; lane /= 2) dot[k] += __shfl_xor_sync(0xffffffffu, dot[k], lane);
            // A gradient that is infinite would make NaN of a pixel off the map.
            if (threadIdx.x == 0) dots[4 * r + k] = p.bits >> k & 1 ? dot[k] : real(0);
        }
    }
    __syncthreads();

    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (thread >= ROWS || first + thread >= rows) return;
    const ChunkRow row(s, index_t(start), first + thread);
    const Corners c = row.corners(s, shift);
    write_place_gradients(s, row, c, dots + 4 * thread, places[thread].scale, grad_shift, grad_mask);
}

// What an entry adds to the sums of VEC channels, its weight times the columns' gradient: here of columns in memory.
struct ColumnGrads {
    const scalar_t* columns;

    INLINE ColumnGrads at(const ChunkSizes& s, int channel) const { return {columns + across(s, channel)}; }
    INLINE void add(real* sum, const Entry& entry) const {
        const Pack grad = load(columns + entry.columns);
#pragma unroll
        for (int i = 0; i < VEC; ++i) sum[i] += entry.weight * to_real(grad.value[i]);
    }
};

extern "C" __global__ void __launch_bounds__(THREADS, 8)
gather(const scalar_t* __restrict__ grad_columns, Entry* bins, const int* __restrict__ begin,
       total_t* __restrict__ grad_pixels, ChunkSizes s, int blocks, int accumulate) {
    gather_keys(ColumnGrads{grad_columns}, bins, begin, grad_pixels, s, blocks, accumulate);
}
