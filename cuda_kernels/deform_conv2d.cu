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
//   bins      (entries on the map)                        the entries of S, input pixel by input pixel
//   begin     (input pixels * offset groups + 1)          where the bins of input pixel and offset group, its key, begin
//
// A chunk is a run of output pixels, counted over the batch from `start`; `rows` = its pixels * taps * offset groups.

// Sizes, and what is divided by.
struct ChunkSizes : Sizes {
    int group_channels, offset_group_channels;
    Divisor by_area, by_out_width, by_taps, by_kernel_width, by_offset_groups, by_group_channels;  // area: of the output
};

// A row of the chunk and where its columns begin; `across` says where a channel follows. Rows are numbered pixel by pixel,
// tap by tap, offset group by offset group.
struct ChunkRow : Row {
    index_t columns;

    INLINE ChunkRow(const ChunkSizes& s, index_t start, index_t row) {
        const int taps = s.kernel_height * s.kernel_width;
        const index_t line = divide(row, s.by_offset_groups), pixel = divide(line, s.by_taps);
        offset_group = int(row - line * s.offset_groups);
        tap = int(line - pixel * taps);
        area = index_t(s.out_height) * s.out_width;
        image = divide(start + pixel, s.by_area);
        position = start + pixel - image * area;
        columns = (pixel * s.groups * taps + tap) * s.group_channels;
    }

    INLINE Corners corners(const ChunkSizes& s, const real* shift) const {
        const index_t at = at_shift_y(s);
        const int out_y = int(divide(position, s.by_out_width)), out_x = int(position - index_t(out_y) * s.out_width);
        const int tap_y = divide(tap, s.by_kernel_width), tap_x = tap - tap_y * s.kernel_width;
        return Row::corners(s, shift[at], shift[at + area], out_y, out_x, tap_y, tap_x);
    }
};

// Where a channel stands in the columns of a pixel and tap: behind the other taps of the groups before its own. VEC
// channels never straddle two groups.
INLINE index_t across(const ChunkSizes& s, int channel) {
    const int taps = s.kernel_height * s.kernel_width;
    return index_t(divide(channel, s.by_group_channels)) * (taps - 1) * s.group_channels + channel;
}

// What the threads over the channels need of a row.
struct Place {
    int bits, channel;  // which corners lie on the map; the offset group's first channel
    index_t columns;
    index_t pixel[4];   // of that channel
    real weight[4], scale;
};

// The places of a block's ROWS rows, found once by its first threads. Beyond the last row nothing is read.
INLINE void find_places(Place* places, const ChunkSizes& s, const real* shift, const real* mask, index_t start, index_t first,
                        index_t rows) {
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    if (thread < ROWS) {
        Place p = {};
        if (first + thread < rows) {
            const ChunkRow row(s, start, first + thread);
            const Corners c = row.corners(s, shift);
            const index_t origin = row.image * s.height * s.width;
            p.bits = c.bits;
            p.channel = row.offset_group * s.offset_group_channels;
            p.columns = row.columns;
            p.scale = mask != nullptr ? mask[row.at_mask(s)] : real(1);
            if (!c.bits) p.scale = real(0);  // nothing read is nothing, were the mask's factor infinite
            for (int k = 0; k < 4; ++k) {
                p.pixel[k] = (origin + c.pixel[k]) * s.channels + p.channel;
                p.weight[k] = c.weight[k];
            }
        }
        places[thread] = p;
    }
    __syncthreads();
}

// Reads the corners of a place; those off the map are zero, whatever the pixel that stands in for them. All are asked for
// before one is used.
INLINE void load_corners(Pack* in, const Place& p, const scalar_t* pixels, int v) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        in[k] = {};
        if (p.bits >> k & 1) in[k] = load(pixels + p.pixel[k] + v);
    }
}

// Threads: x over the channels of an offset group, VEC each; y over rows, of which a block has ROWS.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
sample(const scalar_t* __restrict__ pixels, const real* __restrict__ shift, const real* __restrict__ mask,
       scalar_t* __restrict__ columns, ChunkSizes s, long long start, long long rows) {
    __shared__ Place places[ROWS];
    const index_t first = index_t(blockIdx.x) * ROWS;
    find_places(places, s, shift, mask, index_t(start), first, index_t(rows));
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

// The gradients of offsets and mask: four dot products over the channels of an offset group, of the columns' gradient with
// the pixels at the four corners; x threads a row, added up by shuffles. In the same pass the columns themselves, for the
// weight's gradient, where `columns` is not null. Threads as in `sample`.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
places_backward(const scalar_t* __restrict__ grad_columns, const scalar_t* __restrict__ pixels,
                const real* __restrict__ shift, const real* __restrict__ mask, scalar_t* __restrict__ columns,
                real* __restrict__ grad_shift, real* __restrict__ grad_mask, ChunkSizes s, long long start, long long rows) {
    __shared__ Place places[ROWS];
    __shared__ real dots[ROWS * 4];
    const index_t first = index_t(blockIdx.x) * ROWS;
    find_places(places, s, shift, mask, index_t(start), first, index_t(rows));
    for (int r = threadIdx.y; r < ROWS; r += blockDim.y) {  // every thread of a warp takes part in the shuffles
        const Place& p = places[r];
        real dot[4] = {};
        for (int v = threadIdx.x * VEC; first + r < rows && v < s.offset_group_channels; v += blockDim.x * VEC) {
            const index_t at = p.columns + across(s, p.channel + v);
            Pack grad = {}, in[4], out;
            if (p.bits) grad = load(grad_columns + at);
            load_corners(in, p, pixels, v);
            real sum[VEC] = {};
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int i = 0; i < VEC; ++i) {
                    const real value = to_real(in[k].value[i]);
                    dot[k] += to_real(grad.value[i]) * value;
                    sum[i] += p.weight[k] * value;
                }
            }
            if (columns == nullptr) continue;
#pragma unroll
            for (int i = 0; i < VEC; ++i) assign(out.value[i], p.scale * sum[i]);
            store(columns + at, out);
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
    const real *dot = dots + 4 * thread, scale = places[thread].scale;
    if (grad_mask != nullptr) {
        real sum = 0;
        if (c.bits) sum = c.weight[0] * dot[0] + c.weight[1] * dot[1] + c.weight[2] * dot[2] + c.weight[3] * dot[3];
        grad_mask[row.at_mask(s)] = sum;
    }
    if (grad_shift != nullptr) {
        const index_t at = row.at_shift_y(s);
        const real left = dot[2] - dot[0], right = dot[3] - dot[1], top = dot[1] - dot[0], bottom = dot[3] - dot[2];
        grad_shift[at] = scale * (left + c.fraction_x * (right - left));
        grad_shift[at + row.area] = scale * (top + c.fraction_y * (bottom - top));
    }
}

// An entry of S on the map: where its row's columns begin, which no two entries of a bin share, and its weight.
struct alignas(sizeof(index_t) + sizeof(real) > 8 ? 16 : 8) Entry {
    index_t columns;
    real weight;
};

// Launched twice: without `bins` it adds up in `ends` how many entries each key has; with them, and `ends` made a running
// sum, it puts every entry into the bin of its key, last place first, after which `ends` says where the bins begin.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
entries(const real* __restrict__ shift, const real* __restrict__ mask, int* __restrict__ ends, Entry* __restrict__ bins,
        ChunkSizes s, long long start, long long rows, long long first_image) {
    const index_t number = index_t(blockIdx.x) * blockDim.x + threadIdx.x;
    if (number >= rows) return;
    const ChunkRow row(s, index_t(start), number);
    const Corners c = row.corners(s, shift);
    const real scale = mask != nullptr ? mask[row.at_mask(s)] : real(1);
    const index_t origin = (row.image - index_t(first_image)) * s.height * s.width;
    for (int k = 0; k < 4; ++k) {
        if (!(c.bits >> k & 1)) continue;
        int* end = ends + (origin + c.pixel[k]) * s.offset_groups + row.offset_group;
        if (bins == nullptr) {
            atomicAdd(end, 1);
        } else {
            const real weight = c.weight[k] != 0 ? scale * c.weight[k] : real(0);  // the factor may be infinite
            bins[atomicSub(end, 1) - 1] = {row.columns, weight};
        }
    }
}

// Puts a bin in order, `bin` into `ordered`, for the threads that filled it came in any order. A warp together: 32 entries
// are ranked by counting, then runs are merged, each entry finding its place by a search of the other run.
INLINE void put_in_order(Entry* bin, Entry* ordered, int count) {
    constexpr unsigned everyone = 0xffffffffu;
    const int lane = (threadIdx.y * blockDim.x + threadIdx.x) % 32;
    int merges = 0;
    while (32 << merges < count) ++merges;
    Entry* from = merges % 2 ? ordered : bin;
    Entry* to = merges % 2 ? bin : ordered;
    for (int first = 0; first < count; first += 32) {
        const int run = min(32, count - first);
        Entry mine = {};
        if (lane < run) mine = bin[first + lane];
        int rank = 0;
        for (int other = 0; other < run; ++other) rank += __shfl_sync(everyone, mine.columns, other) < mine.columns;
        __syncwarp();  // `to` may be `bin`: all have read before one writes
        if (lane < run) to[first + rank] = mine;
    }
    for (int run = 32; run < count; run *= 2) {
        __syncwarp();
        Entry* last = from;
        from = to;
        to = last;
        for (int e = lane; e < count; e += 32) {
            const Entry mine = from[e];
            const int other = min((e & ~(run - 1)) ^ run, count);
            int low = other, high = min(other + run, count);
            while (low < high) {
                const int middle = (low + high) / 2;
                if (from[middle].columns < mine.columns) low = middle + 1;
                else high = middle;
            }
            to[(e & ~(2 * run - 1)) + (e & (run - 1)) + (low - other)] = mine;
        }
    }
}

// VEC neighbouring channels of the sums, which are in full precision where they go on.
struct alignas(sizeof(total_t) * VEC) Totals {
    total_t value[VEC];
};

// S^T times the columns' gradient. Threads: x over the channels of an offset group, VEC each; y over the keys (input pixel
// by offset group). The entries of a key are first put in order, so every sum runs in one fixed order. With `accumulate`
// the sum goes on from what an earlier chunk of the same images left.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
gather(const scalar_t* __restrict__ grad_columns, Entry* bins, Entry* ordered, const int* __restrict__ begin,
       total_t* __restrict__ grad_pixels, ChunkSizes s, long long keys, int accumulate) {
    const index_t first = index_t(blockIdx.x) * blockDim.y;
    const int warp = (threadIdx.y * blockDim.x + threadIdx.x) / 32, warps = blockDim.x * blockDim.y / 32;
    for (int y = warp; y < blockDim.y && first + y < keys; y += warps) {
        const int from = begin[first + y];
        put_in_order(bins + from, ordered + from, begin[first + y + 1] - from);
    }
    __syncthreads();

    const index_t key = first + threadIdx.y;
    if (key >= keys) return;
    const index_t pixel = divide(key, s.by_offset_groups);
    const int first_channel = int(key - pixel * s.offset_groups) * s.offset_group_channels;
    total_t* out = grad_pixels + pixel * s.channels + first_channel;
    const int from = begin[key], to = begin[key + 1];
    if (accumulate && from == to) return;  // a chunk stands on a part of the image
    for (int v = threadIdx.x * VEC; v < s.offset_group_channels; v += blockDim.x * VEC) {
        const scalar_t* grads = grad_columns + across(s, first_channel + v);
        Totals& totals = *reinterpret_cast<Totals*>(out + v);
        Totals last = {};
        if (accumulate) last = totals;
        real sum[VEC];
#pragma unroll
        for (int i = 0; i < VEC; ++i) sum[i] = to_real(last.value[i]);
#pragma unroll 4
        for (int e = from; e < to; ++e) {
            const Entry entry = ordered[e];
            const Pack grad = load(grads + entry.columns);
#pragma unroll
            for (int i = 0; i < VEC; ++i) sum[i] += entry.weight * to_real(grad.value[i]);
        }
#pragma unroll
        for (int i = 0; i < VEC; ++i) assign(last.value[i], sum[i]);
        totals = last;
    }
}
