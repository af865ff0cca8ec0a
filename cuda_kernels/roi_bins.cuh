// What both RoI poolings share. A bin's samples form a grid, and skipping and clamping work per axis, so a bin is
// w_y^T F w_x: along each axis the samples' bilinear weights are merged by pixel, and each pixel is read once however many
// samples touch it. Where samples lie and what one reads is the `Rule` of the kernel file:
//
//   averages_kept                               the mean is over the samples on the map (else: over all of them)
//   roi(sizes, box, batch)                      a box in pixels of the map
//   part(bin, bins, parts)                      the offset's cell that a bin takes, along an axis
//   count(sizes, size, bins)                    samples of a bin along an axis
//   place(axis, i)                              where sample i lies
//   range(axis, low, high, from, to)            samples that may touch the pixels low to high: from, .., to
//   tap(place, size)                            what a sample reads
//
//   array    shape                                     meaning
//   pixels   (N, G * G, H, W, K)                       input map by group cell, its K channels last
//   boxes    (R, 5)                                    image number, x1, y1, x2, y2
//   offset   (R, 2 * classes, parts y, parts x)        x before y; or null
//   out      (R, out height, out width, K)             channels last; the same for its gradient
//
// The channels of a class share their geometry; `lanes` threads take VEC of them each. Launch bounds ask for few blocks a
// multiprocessor: with more, some architectures spill around the slow path of a division. Loops over samples and bins are
// not unrolled: it would double the time to compile.

struct Sizes {
    long long rois;
    double scale, gamma;
    int batch, height, width, channels, group, classes, out_height, out_width, part_height, part_width, samples;
};

// A box: the image it lies in (-1: none), its start and its size, in pixels of the map.
struct Roi {
    int image;
    real x, y, width, height;
};

// What a sample reads along an axis: (1 - fraction) of the pixel `low`, and the fraction of the next one where it `moves`,
// that is, where its value changes with its place.
struct Tap {
    bool kept, moves;
    int low;
    real fraction;
};

// The samples of a bin along an axis, and the pixels that they read: first to last, none where first > last.
struct Axis {
    real start, step, per_step, share;  // per_step: one over the samples' distance; share: of one sample in the mean
    int samples, size, first, last;
};

struct Weight {
    real value, slope;  // of a pixel; slope: the derivative by the bin's place
};

struct Bin {
    Axis y, x;
};

INLINE bool is_finite(real v) { return v - v == real(0); }

template <class Rule>
INLINE Axis axis_of(real start, real bin, int samples, int size) {
    const real step = bin / real(samples);
    Axis a = {start, step, real(1) / step, real(0), samples, size, size, -1};
    if (!is_finite(start)) return a;
    int from, to, kept = 0;
    Rule::range(a, 0, size - 1, from, to);
#pragma unroll 1
    for (int i = from; i <= to; ++i) {
        const Tap tap = Rule::tap(Rule::place(a, i), size);
        if (!tap.kept) continue;
        ++kept;
        a.first = min(a.first, tap.low);
        a.last = max(a.last, tap.low + int(tap.moves));
    }
    if (kept) a.share = real(1) / real(Rule::averages_kept ? kept : samples);
    return a;
}

template <class Rule>
INLINE Weight weight_of(const Axis& a, int pixel) {
    Weight w = {};
    if (pixel < a.first || pixel > a.last) return w;
    int from, to;
    Rule::range(a, pixel, pixel, from, to);
#pragma unroll 1
    for (int i = from; i <= to; ++i) {
        const Tap tap = Rule::tap(Rule::place(a, i), a.size);
        if (!tap.kept) continue;
        if (tap.low == pixel) {
            w.value += real(1) - tap.fraction;
            if (tap.moves) w.slope -= real(1);
        } else if (tap.moves && tap.low + 1 == pixel) {
            w.value += tap.fraction;
            w.slope += real(1);
        }
    }
    w.value *= a.share;
    w.slope *= a.share;
    return w;
}

template <class Rule>
INLINE Bin bin_of(const Sizes& s, const Roi& roi, const real* offset, index_t number, int class_of, int row, int column) {
    const int samples_y = Rule::count(s, roi.height, s.out_height), samples_x = Rule::count(s, roi.width, s.out_width);
    if (roi.image < 0 || samples_y == 0 || samples_x == 0) {
        const Axis none = {real(0), real(0), real(0), real(0), 0, 0, 0, -1};
        return {none, none};
    }
    const real bin_height = roi.height / real(s.out_height), bin_width = roi.width / real(s.out_width);
    real y = roi.y + real(row) * bin_height, x = roi.x + real(column) * bin_width;
    if (offset != nullptr) {
        const index_t area = index_t(s.part_height) * s.part_width;
        const index_t at = (number * 2 * s.classes + 2 * class_of) * area +
                           index_t(Rule::part(row, s.out_height, s.part_height)) * s.part_width +
                           Rule::part(column, s.out_width, s.part_width);
        x += offset[at] * real(s.gamma) * roi.width;
        y += offset[at + area] * real(s.gamma) * roi.height;
    }
    return {axis_of<Rule>(y, bin_height, samples_y, s.height), axis_of<Rule>(x, bin_width, samples_x, s.width)};
}

// The group cell, of row and column together, that a bin reads.
INLINE int cell_of(const Sizes& s, int row, int column) {
    return row * s.group / s.out_height * s.group + column * s.group / s.out_width;
}

INLINE const scalar_t* plane_of(const Sizes& s, const scalar_t* pixels, int image, int cell) {
    return pixels + (index_t(image) * s.group * s.group + cell) * s.height * s.width * s.channels;
}

// Calls visit(row, column, weight_y, weight_x) for the pixels of a bin: a warp together, 32 / lanes pixels at a time, each
// thread one of them; lane i finds the weights of row i and of column i of a 32 x 32 tile. Every thread of the warp calls
// this with the same bin and lanes.
template <class Rule, class Visit>
INLINE void for_pixels(const Bin& bin, int lanes, Visit visit) {
    constexpr unsigned everyone = 0xffffffffu;
    const int lane = threadIdx.x % 32, pixel = lane / lanes, step = 32 / lanes;
    for (int top = bin.y.first; top <= bin.y.last; top += 32) {
        const Weight of_row = weight_of<Rule>(bin.y, top + lane);
        const int rows = min(32, bin.y.last - top + 1);
        for (int left = bin.x.first; left <= bin.x.last; left += 32) {
            const Weight of_column = weight_of<Rule>(bin.x, left + lane);
            const int columns = min(32, bin.x.last - left + 1);
            int row = pixel / columns, column = pixel % columns;
            for (int done = 0; done < rows * columns; done += step) {
                const int at = min(row, rows - 1);
                Weight y, x;
                y.value = __shfl_sync(everyone, of_row.value, at);
                y.slope = __shfl_sync(everyone, of_row.slope, at);
                x.value = __shfl_sync(everyone, of_column.value, column);
                x.slope = __shfl_sync(everyone, of_column.slope, column);
                if (row < rows) visit(top + row, left + column, y, x);
                for (column += step; column >= columns; column -= columns) ++row;
            }
        }
    }
}

// A warp for each bin, class and chunk of lanes * VEC channels.
template <class Rule>
INLINE void pool_bins(const scalar_t* pixels, const real* boxes, const real* offset, scalar_t* out, const Sizes& s, int lanes) {
    const int per_class = s.channels / s.classes, chunk_channels = lanes * VEC;
    const int chunks = (per_class + chunk_channels - 1) / chunk_channels;
    index_t task = index_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (task >= index_t(s.rois) * s.out_height * s.out_width * s.classes * chunks) return;
    const int chunk = int(task % chunks);
    task /= chunks;
    const int class_of = int(task % s.classes);
    const index_t bin_number = task / s.classes;
    const int column = int(bin_number % s.out_width), row = int(bin_number / s.out_width % s.out_height);
    const index_t number = bin_number / s.out_width / s.out_height;

    const Roi roi = Rule::roi(s, boxes + number * 5);
    const Bin bin = bin_of<Rule>(s, roi, offset, number, class_of, row, column);
    const int of_class = chunk * chunk_channels + int(threadIdx.x) % lanes * VEC;
    const int channel = class_of * per_class + of_class;
    const bool active = of_class < per_class;
    const scalar_t* plane = plane_of(s, pixels, max(roi.image, 0), cell_of(s, row, column)) + channel;

    real sum[VEC] = {};
    for_pixels<Rule>(bin, lanes, [&](int y, int x, const Weight& weight_y, const Weight& weight_x) {
        const real weight = weight_y.value * weight_x.value;
        if (!active || weight == real(0)) return;
        const Pack in = load(plane + (index_t(y) * s.width + x) * s.channels);
#pragma unroll
        for (int i = 0; i < VEC; ++i) sum[i] += weight * to_real(in.value[i]);
    });
#pragma unroll
    for (int i = 0; i < VEC; ++i)
        for (int lane = 16; lane >= lanes; lane /= 2) sum[i] += __shfl_xor_sync(0xffffffffu, sum[i], lane);
    if (!active || threadIdx.x % 32 >= lanes) return;
    Pack result;
#pragma unroll
    for (int i = 0; i < VEC; ++i) assign(result.value[i], sum[i]);
    store(out + bin_number * s.channels + channel, result);
}

// A warp for each offset (x and y together): the sum over its bins of the pixels' dot products, over the channels of the
// class, with the bin's gradient, times the slope of each pixel's weight.
template <class Rule>
INLINE void offset_gradient(const scalar_t* grad, const scalar_t* pixels, const real* boxes, const real* offset,
                            real* grad_offset, const Sizes& s, int lanes) {
    const int per_class = s.channels / s.classes;
    index_t task = index_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (task >= index_t(s.rois) * s.classes * s.part_height * s.part_width) return;
    const int part_x = int(task % s.part_width), part_y = int(task / s.part_width % s.part_height);
    task /= index_t(s.part_width) * s.part_height;
    const int class_of = int(task % s.classes);
    const index_t number = task / s.classes;
    const Roi roi = Rule::roi(s, boxes + number * 5);

    real shift_x = 0, shift_y = 0;
#pragma unroll 1
    for (int row = 0; row < s.out_height; ++row) {
        if (Rule::part(row, s.out_height, s.part_height) != part_y) continue;
#pragma unroll 1
        for (int column = 0; column < s.out_width; ++column) {
            if (Rule::part(column, s.out_width, s.part_width) != part_x) continue;
            const Bin bin = bin_of<Rule>(s, roi, offset, number, class_of, row, column);
            const scalar_t* plane = plane_of(s, pixels, max(roi.image, 0), cell_of(s, row, column)) + class_of * per_class;
            const scalar_t* of_bin =
                grad + ((number * s.out_height + row) * s.out_width + column) * s.channels + class_of * per_class;
            for (int first = 0; first < per_class; first += lanes * VEC) {
                const int channel = first + int(threadIdx.x) % lanes * VEC;
                const bool active = channel < per_class;
                Pack out = {};
                if (active) out = load(of_bin + channel);
                for_pixels<Rule>(bin, lanes, [&](int y, int x, const Weight& weight_y, const Weight& weight_x) {
                    const real by_x = weight_y.value * weight_x.slope, by_y = weight_y.slope * weight_x.value;
                    if (!active || (by_x == real(0) && by_y == real(0))) return;
                    const Pack in = load(plane + channel + (index_t(y) * s.width + x) * s.channels);
                    real dot = 0;
#pragma unroll
                    for (int i = 0; i < VEC; ++i) dot += to_real(out.value[i]) * to_real(in.value[i]);
                    shift_x += by_x * dot;
                    shift_y += by_y * dot;
                });
            }
        }
    }
    for (int lane = 16; lane > 0; lane /= 2) {
        shift_x += __shfl_xor_sync(0xffffffffu, shift_x, lane);
        shift_y += __shfl_xor_sync(0xffffffffu, shift_y, lane);
    }
    if (threadIdx.x % 32 != 0) return;
    const index_t area = index_t(s.part_height) * s.part_width;
    real* to = grad_offset + (number * 2 * s.classes + 2 * class_of) * area + index_t(part_y) * s.part_width + part_x;
    // A box of infinite size reads nothing, and nothing times infinity shall be nothing.
    to[0] = shift_x == real(0) ? real(0) : real(s.gamma) * roi.width * shift_x;
    to[area] = shift_y == real(0) ? real(0) : real(s.gamma) * roi.height * shift_y;
}

// A block for each TILE x TILE pixels of a plane, class and chunk of lanes * VEC channels. It goes over all bins of its
// group cell in rounds of as many as it has threads; those that read the tile are listed in order, their weights found
// once and shared, and every thread adds them up for one row of the tile. Nothing is written but the sums, once, so there
// are no atomics, no list of a length that depends on the boxes, and one order of summation.
template <class Rule>
INLINE void input_gradient(const scalar_t* grad, const real* boxes, const real* offset, scalar_t* grad_pixels, const Sizes& s,
                           int lanes) {
    __shared__ Axis hit_y[TILE_THREADS];
    __shared__ Axis hit_x[TILE_THREADS];
    __shared__ index_t hit_at[TILE_THREADS];
    __shared__ real weight_y[TILE_THREADS * TILE];
    __shared__ real weight_x[TILE_THREADS * TILE];
    __shared__ int hits_of_warp[TILE_THREADS / 32];

    const int per_class = s.channels / s.classes, chunk_channels = lanes * VEC;
    const int chunks = (per_class + chunk_channels - 1) / chunk_channels;
    const int tiles_x = (s.width + TILE - 1) / TILE, tiles_y = (s.height + TILE - 1) / TILE;
    index_t task = blockIdx.x;
    const int chunk = int(task % chunks);
    task /= chunks;
    const int class_of = int(task % s.classes);
    task /= s.classes;
    const int left = int(task % tiles_x) * TILE;
    task /= tiles_x;
    const int top = int(task % tiles_y) * TILE;
    task /= tiles_y;
    const int cell = int(task % (s.group * s.group)), image = int(task / (s.group * s.group));

    // Bins of the cell: rows i with i * group / out_height equal to the cell's row, and columns likewise.
    const int cell_y = cell / s.group, cell_x = cell % s.group;
    const int first_row = (cell_y * s.out_height + s.group - 1) / s.group;
    const int first_column = (cell_x * s.out_width + s.group - 1) / s.group;
    const int rows = ((cell_y + 1) * s.out_height + s.group - 1) / s.group - first_row;
    const int columns = ((cell_x + 1) * s.out_width + s.group - 1) / s.group - first_column;
    const index_t candidates = index_t(s.rois) * rows * columns;

    const int threads = blockDim.x, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int of_class = chunk * chunk_channels + thread % lanes * VEC, channel = class_of * per_class + of_class;
    const int tile_row = thread / lanes, y = top + tile_row;
    const bool active = tile_row < TILE && y < s.height && of_class < per_class;

    real sum[TILE][VEC] = {};
    for (index_t round = 0; round < candidates; round += threads) {
        const index_t candidate = round + thread;
        bool hit = false;
        Bin bin;
        index_t bin_number = 0;
        if (candidate < candidates) {
            const int column = first_column + int(candidate % columns);
            const int row = first_row + int(candidate / columns % rows);
            const index_t number = candidate / columns / rows;
            const Roi roi = Rule::roi(s, boxes + number * 5);
            if (roi.image == image) {
                bin = bin_of<Rule>(s, roi, offset, number, class_of, row, column);
                bin_number = (number * s.out_height + row) * s.out_width + column;
                hit = bin.y.first <= bin.y.last && bin.y.first < top + TILE && bin.y.last >= top &&
                      bin.x.first <= bin.x.last && bin.x.first < left + TILE && bin.x.last >= left;
            }
        }
        const unsigned hits_here = __ballot_sync(0xffffffffu, hit);
        if (lane == 0) hits_of_warp[warp] = __popc(hits_here);
        __syncthreads();
        int place = __popc(hits_here & ((1u << lane) - 1)), hits = 0;
        for (int w = 0; w < threads / 32; ++w) {
            if (w < warp) place += hits_of_warp[w];
            hits += hits_of_warp[w];
        }
        if (hit) {
            hit_y[place] = bin.y;
            hit_x[place] = bin.x;
            hit_at[place] = bin_number * s.channels;
        }
        __syncthreads();
        if (hits == 0) continue;
#pragma unroll 1
        for (int e = thread; e < hits * TILE; e += threads) {
            weight_y[e] = weight_of<Rule>(hit_y[e / TILE], top + e % TILE).value;
            weight_x[e] = weight_of<Rule>(hit_x[e / TILE], left + e % TILE).value;
        }
        __syncthreads();
        for (int h = 0; active && h < hits; ++h) {
            const real of_row = weight_y[h * TILE + tile_row];
            if (of_row == real(0)) continue;
            const Pack out = load(grad + hit_at[h] + channel);
#pragma unroll
            for (int x = 0; x < TILE; ++x) {
                const real weight = of_row * weight_x[h * TILE + x];
                if (weight == real(0)) continue;  // the same for all channels; keeps a gradient of NaN to its own pixels
#pragma unroll
                for (int i = 0; i < VEC; ++i) sum[x][i] += weight * to_real(out.value[i]);
            }
        }
    }
    if (!active) return;
    scalar_t* to = grad_pixels + ((index_t(image) * s.group * s.group + cell) * s.height + y) * s.width * s.channels + channel;
#pragma unroll
    for (int x = 0; x < TILE; ++x) {
        if (left + x >= s.width) break;
        Pack result;
#pragma unroll
        for (int i = 0; i < VEC; ++i) assign(result.value[i], sum[x][i]);
        store(to + index_t(left + x) * s.channels, result);
    }
}
