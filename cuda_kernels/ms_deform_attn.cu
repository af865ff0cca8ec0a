// Multi-scale deformable attention (Zhu et al., 2021, equation 3): weighted sums of bilinear samples of several levels.
//
//   array      shape               meaning
//   value      (N, S, M, D)        pixels of all levels, one level after another; so its gradient
//   shapes     (L, 2)              height and width of each level, int64
//   starts     (L)                 its first pixel, int64
//   locations  (N, Q, M, L, P, 2)  x before y, fractions or pixels; so their gradient
//   weights    (N, Q, M, L, P)     so their gradient
//   output     (N, Q, M, D)        so its gradient
//
// A row is one head of one query; it has L * P samples. Channels are read 16 bytes a thread, and a row's lanes find its
// places together. Shapes are read here, for a host that read them would wait for the GPU; a level that does not lie
// within the S pixels reads nothing.
//
// The gradient of value is gathered: entries (sample, corner, weight) are sorted by pixel and head (entries.cuh), and a
// warp for each pixel and head adds up its own. A coarse level has few pixels for as many samples as a fine one: there
// the bin of a pixel is split by queries, into bins of SPLIT entries on average, so that none is long to put in order.

struct AttentionSizes {
    long long length, queries, rows;  // S; of the chunk: queries of an image, and rows
    long long keys, capacity;         // of an image: bins, and the most entries
    int heads, channels, levels, points, normalized;
    Divisor by_samples, by_points, by_heads, by_queries, by_length;
};

// A level as the kernels need it: none if its height is 0.
struct Level {
    int height, width;
    index_t first, area;

    INLINE Level(const AttentionSizes& s, const long long* shapes, const long long* starts, int level) {
        const long long high = shapes[2 * level], wide = shapes[2 * level + 1], start = starts[level];
        const long long most = s.length < 0x7fffffffLL ? s.length : 0x7fffffffLL;
        const bool lies = high > 0 && high <= most && wide > 0 && wide <= most && start >= 0 && start <= s.length &&
                          high * wide <= s.length - start;
        height = lies ? int(high) : 0;
        width = lies ? int(wide) : 0;
        first = lies ? index_t(start) : 0;
        area = index_t(height) * width;
    }

    // Into how many bins the entries of a pixel and head are split.
    INLINE index_t splits(const AttentionSizes& s) const {
        const long long entries = 4 * s.queries * s.points, all = (long long)area * SPLIT;
        return area > 0 ? index_t((entries + all - 1) / all) : 0;
    }
};

// Where one sample of a row reads, and what the threads over the channels need of it.
struct Place {
    int bits;          // which corners lie on the level
    index_t pixel[4];  // of the head's first channel
    real weight[4], scale, fraction_y, fraction_x;
};

INLINE Corners sample_corners(const AttentionSizes& s, const Level& level, const real* locations, index_t number) {
    real x = locations[2 * number], y = locations[2 * number + 1];
    if (s.normalized) {
        x = x * real(level.width) - real(0.5);
        y = y * real(level.height) - real(0.5);
    }
    return corners_of(y, x, level.height, level.width);
}

INLINE Place find_place(const AttentionSizes& s, const long long* shapes, const long long* starts, const real* locations,
                        const real* weights, index_t row, int sample) {
    const index_t number = row * (s.levels * s.points) + sample, line = divide(row, s.by_heads);
    const index_t image = divide(line, s.by_queries);
    const int head = int(row - line * s.heads);
    const Level level(s, shapes, starts, int(divide(sample, s.by_points)));
    const Corners c = sample_corners(s, level, locations, number);
    Place p = {};
    p.bits = c.bits;
    p.scale = c.bits ? weights[number] : real(0);  // nothing read is nothing, were the weight infinite
    p.fraction_y = c.fraction_y;
    p.fraction_x = c.fraction_x;
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        p.pixel[k] = ((image * index_t(s.length) + level.first + c.pixel[k]) * s.heads + head) * s.channels;
        p.weight[k] = c.weight[k];
    }
    return p;
}

// Reads the corners of a place; those off the level are zero. All are asked for before one is used.
INLINE void load_corners(Pack* in, const Place& p, const scalar_t* value, int v) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        in[k] = {};
        if (p.bits >> k & 1) in[k] = load(value + p.pixel[k] + v);
    }
}

// Each lane finds the place of one sample, for all lanes of its row to read.
INLINE void share_place(Place* of_row, const AttentionSizes& s, const long long* shapes, const long long* starts,
                        const real* locations, const real* weights, index_t row, int sample, int samples) {
    Place place = {};
    if (sample < samples && row < s.rows) place = find_place(s, shapes, starts, locations, weights, row, sample);
    of_row[threadIdx.x] = place;
    __syncwarp();
}

// Writes the output. Threads: x over the channels of a row, VEC each, a power of two up to 32; y over rows. A row's lanes
// are in one warp, so that they meet without a barrier of the block.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
attend(const scalar_t* __restrict__ value, const long long* __restrict__ shapes, const long long* __restrict__ starts,
       const real* __restrict__ locations, const real* __restrict__ weights, scalar_t* __restrict__ output, AttentionSizes s) {
    __shared__ Place places[THREADS];
    const int samples = s.levels * s.points, steps = (s.channels + blockDim.x * VEC - 1) / (blockDim.x * VEC);
    const index_t task = blockIdx.x, row = task / steps * blockDim.y + threadIdx.y;
    const int v = (int(task % steps) * blockDim.x + threadIdx.x) * VEC;
    const bool active = v < s.channels && row < s.rows;
    Place* const of_row = places + threadIdx.y * blockDim.x;
    real sum[VEC] = {};
    for (int from = 0; from < samples; from += blockDim.x) {
        const int sample = from + threadIdx.x;
        share_place(of_row, s, shapes, starts, locations, weights, row, sample, samples);
        const int here = min(int(blockDim.x), samples - from);
        for (int t = 0; active && t < here; ++t) {
            const Place& p = of_row[t];
            Pack in[4];
            load_corners(in, p, value, v);
            real blended[VEC] = {};
#pragma unroll
            for (int k = 0; k < 4; ++k) {
#pragma unroll
                for (int i = 0; i < VEC; ++i) blended[i] += p.weight[k] * to_real(in[k].value[i]);
            }
#pragma unroll
            for (int i = 0; i < VEC; ++i) sum[i] += p.scale * blended[i];
        }
        __syncwarp();
    }
    if (!active) return;
    Pack out;
#pragma unroll
    for (int i = 0; i < VEC; ++i) assign(out.value[i], sum[i]);
    store(output + row * s.channels + v, out);
}

// Writes the gradients of locations and weights, each if its array is not null. Threads as in `attend`, which all take part
// in the shuffles; every lane finds the place of one sample and writes its gradients.
extern "C" __global__ void __launch_bounds__(THREADS, 5)
attend_backward(const scalar_t* __restrict__ grad, const scalar_t* __restrict__ value, const long long* __restrict__ shapes,
                const long long* __restrict__ starts, const real* __restrict__ locations, const real* __restrict__ weights,
                real* __restrict__ grad_locations, real* __restrict__ grad_weights, AttentionSizes s) {
    __shared__ Place places[THREADS];
    const int samples = s.levels * s.points;
    const index_t row = index_t(blockIdx.x) * blockDim.y + threadIdx.y;
    Place* const of_row = places + threadIdx.y * blockDim.x;
    for (int from = 0; from < samples; from += blockDim.x) {
        const int sample = from + threadIdx.x;
        share_place(of_row, s, shapes, starts, locations, weights, row, sample, samples);
        const int here = min(int(blockDim.x), samples - from);
        real mine[4] = {};
        for (int t = 0; t < here; ++t) {
            const Place& p = of_row[t];
            real dot[4] = {};
            for (int v = threadIdx.x * VEC; v < s.channels; v += blockDim.x * VEC) {
                if (!p.bits) break;
                Pack in[4];
                const Pack out = load(grad + row * s.channels + v);
                load_corners(in, p, value, v);
#pragma unroll
                for (int k = 0; k < 4; ++k) {
                    if (!(p.bits >> k & 1)) continue;  // a gradient that is infinite would make NaN of nothing
#pragma unroll
                    for (int i = 0; i < VEC; ++i) dot[k] += to_real(out.value[i]) * to_real(in[k].value[i]);
                }
            }
#pragma unroll
            for (int k = 0; k < 4; ++k) {
                for (int lane = blockDim.x / 2; lane > 0; lane /= 2) dot[k] += __shfl_xor_sync(0xffffffffu, dot[k], lane);
                if (threadIdx.x == t) mine[k] = dot[k];
            }
        }
        if (sample < samples && row < s.rows) {
            const Place& p = of_row[threadIdx.x];
            const index_t number = row * samples + sample;
            if (grad_weights != nullptr) {
                real sum = 0;
                if (p.bits) sum = p.weight[0] * mine[0] + p.weight[1] * mine[1] + p.weight[2] * mine[2] + p.weight[3] * mine[3];
                grad_weights[number] = sum;
            }
            if (grad_locations != nullptr) {
                const Level level(s, shapes, starts, int(divide(sample, s.by_points)));
                const real per_x = s.normalized ? real(level.width) : real(1);
                const real per_y = s.normalized ? real(level.height) : real(1);
                const real left = mine[2] - mine[0], right = mine[3] - mine[1];
                const real top = mine[1] - mine[0], bottom = mine[3] - mine[2];
                grad_locations[2 * number] = per_x * p.scale * (top + p.fraction_y * (bottom - top));
                grad_locations[2 * number + 1] = per_y * p.scale * (left + p.fraction_x * (right - left));
            }
        }
        __syncwarp();
    }
}

// Where the bins of a level's first pixel begin among those of one head: behind the bins of the levels before it.
INLINE index_t bins_before(const AttentionSizes& s, const long long* shapes, const long long* starts, int level) {
    index_t before = 0;
    for (int l = 0; l < level; ++l) {
        const Level other(s, shapes, starts, l);
        before += other.area * other.splits(s);
    }
    return before;
}

// The first bin of a pixel, counted within its level, and of a head: the bins of all heads of a pixel lie together.
INLINE index_t first_bin(const AttentionSizes& s, index_t before, index_t splits, index_t pixel, int head) {
    return (before + pixel * splits) * s.heads + head * splits;
}

// A thread for each sample: without `bins` it counts its entries in `begin`, with them it puts each into its bin, last place
// first. Shapes that nobody has checked may ask for more bins than there are; such entries are left out.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
attention_entries(const long long* __restrict__ shapes, const long long* __restrict__ starts, const real* __restrict__ locations,
                  const real* __restrict__ weights, int* begin, Entry* bins, AttentionSizes s) {
    const int samples = s.levels * s.points;
    const index_t number = index_t(blockIdx.x) * blockDim.x + threadIdx.x, row = divide(number, s.by_samples);
    if (row >= s.rows) return;
    const int of_level = int(divide(int(number - row * samples), s.by_points));
    const Level level(s, shapes, starts, of_level);
    const Corners c = sample_corners(s, level, locations, number);
    if (!c.bits) return;
    const index_t line = divide(row, s.by_heads), image = divide(line, s.by_queries), query = line - image * s.queries;
    const index_t splits = level.splits(s), before = bins_before(s, shapes, starts, of_level);
    const index_t split = index_t((long long)query * splits / s.queries);
    const real scale = weights[number];
    begin += image * (index_t(s.keys) + 1);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (!weighs(c, scale, k)) continue;
        const index_t key = first_bin(s, before, splits, c.pixel[k], int(row - line * s.heads)) + split;
        if (key >= s.keys) continue;
        if (bins == nullptr) {
            atomicAdd(begin + key, 1);
        } else {
            const real weight = c.weight[k] != 0 ? scale * c.weight[k] : real(0);  // the factor may be infinite
            bins[image * index_t(s.capacity) + atomicSub(begin + key, 1) - 1] = {number, weight};
        }
    }
}

// A block for each image: turns the counts of its bins into where they end.
extern "C" __global__ void __launch_bounds__(1024, 1) attention_sums(int* begin, AttentionSizes s) {
    add_up(begin + index_t(blockIdx.x) * (index_t(s.keys) + 1), index_t(s.keys));
}

// A warp for each image, pixel and head: puts the bins in order and adds up what their entries give. `lanes`, a power of
// two, go over the channels, VEC each; the others of the warp take the next entries, and the parts are added in one order.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
attention_gather(const scalar_t* __restrict__ grad, const long long* __restrict__ shapes, const long long* __restrict__ starts,
                 Entry* bins, const int* __restrict__ begin, scalar_t* __restrict__ grad_value, AttentionSizes s, long long warps,
                 int lanes) {
    __shared__ Entry others[THREADS / 32][LONG];
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, part = lane / lanes, parts = 32 / lanes;
    const index_t task = index_t(blockIdx.x) * (THREADS / 32) + warp;
    if (task >= warps) return;  // the whole warp, and nothing waits for it
    const index_t line = divide(task, s.by_heads), image = divide(line, s.by_length), pixel = line - image * s.length;
    const int head = int(task - line * s.heads);
    begin += image * (index_t(s.keys) + 1);
    bins += image * index_t(s.capacity);
    for (int base = 0; base < s.channels; base += lanes * VEC) {  // all lanes alike, for the shuffles
        const int v = base + lane % lanes * VEC;
        real sum[VEC] = {};
        index_t before = 0;
        for (int l = 0; l < s.levels; ++l) {
            const Level level(s, shapes, starts, l);
            const index_t splits = level.splits(s), key = first_bin(s, before, splits, pixel - level.first, head);
            before += level.area * splits;
            if (pixel < level.first || pixel - level.first >= level.area || key + splits > s.keys) continue;
            for (index_t bin = key; base == 0 && bin < key + splits; ++bin) {
                const int from = begin[bin], count = begin[bin + 1] - from;
                if (count <= LONG) put_in_order(bins + from, others[warp], count);
                else put_long_in_order<Warp>(bins + from, count);
            }
            __syncwarp();
            if (v >= s.channels) continue;
            const int to = begin[key + splits];
#pragma unroll 4
            for (int e = begin[key] + part; e < to; e += parts) {
                const Entry entry = bins[e];
                const Pack out = load(grad + divide(entry.columns, s.by_samples) * s.channels + v);
#pragma unroll
                for (int i = 0; i < VEC; ++i) sum[i] += entry.weight * to_real(out.value[i]);
            }
        }
        for (int step = lanes; step < 32; step *= 2) {
#pragma unroll
            for (int i = 0; i < VEC; ++i) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], step);
        }
        if (part != 0 || v >= s.channels) continue;
        Pack result;
#pragma unroll
        for (int i = 0; i < VEC; ++i) assign(result.value[i], sum[i]);
        store(grad_value + task * s.channels + v, result);
    }
}
