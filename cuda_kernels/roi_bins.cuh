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

// Blocks of `input_backward` that a multiprocessor should hold: sums in double take more registers.
constexpr int TILE_BLOCKS = sizeof(real) == 8 ? 4 : 5;

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

// The bins of a group cell: rows i with i * group / out_height equal to the cell's row, and columns likewise. They are
// numbered box by box, row by row; every cell has as many words of 32 bins as the one with most.
struct CellBins {
    int cell, first_row, first_column, rows, columns;

    INLINE CellBins(const Sizes& s, int cell) : cell(cell) {
        const int y = cell / s.group, x = cell % s.group;
        first_row = (y * s.out_height + s.group - 1) / s.group;
        first_column = (x * s.out_width + s.group - 1) / s.group;
        rows = ((y + 1) * s.out_height + s.group - 1) / s.group - first_row;
        columns = ((x + 1) * s.out_width + s.group - 1) / s.group - first_column;
    }

    INLINE index_t count(const Sizes& s) const { return index_t(s.rois) * rows * columns; }
    static INLINE index_t words(const Sizes& s) {
        const int most_rows = (s.out_height + s.group - 1) / s.group, most_columns = (s.out_width + s.group - 1) / s.group;
        return (index_t(s.rois) * most_rows * most_columns + 31) / 32;
    }
};

// One bin of a cell: its box, and where it stands in the output.
struct CellBin {
    index_t number;
    int row, column;

    INLINE CellBin(const CellBins& bins, index_t candidate) {
        const index_t line = candidate / bins.columns;
        column = bins.first_column + int(candidate - line * bins.columns);
        number = line / bins.rows;
        row = bins.first_row + int(line - number * bins.rows);
    }
    INLINE index_t output(const Sizes& s) const { return (number * s.out_height + row) * s.out_width + column; }
};

// Bit sets over the bins of a cell, `words` words each: for a class, which bins read something in each row of tiles, and in
// each column of tiles; and which boxes lie in each image. A bin reads a tile where all three have its bit.
struct Lists {
    index_t words;
    int tiles_y, tiles_x;

    INLINE Lists(const Sizes& s)
        : words(CellBins::words(s)), tiles_y((s.height + TILE - 1) / TILE), tiles_x((s.width + TILE - 1) / TILE) {}

    INLINE index_t tile_row(const Sizes& s, int cell, int class_of, int tile_y) const {
        return ((index_t(cell) * s.classes + class_of) * (tiles_y + tiles_x) + tile_y) * words;
    }
    INLINE index_t tile_column(const Sizes& s, int cell, int class_of, int tile_x) const {
        return tile_row(s, cell, class_of, tiles_y + tile_x);
    }
    INLINE index_t image(const Sizes& s, int cell, int image) const {
        return tile_row(s, s.group * s.group, 0, 0) + (index_t(cell) * s.batch + image) * words;
    }
};

INLINE bool reads(const Axis& a, int tile) { return a.first < (tile + 1) * TILE && a.last >= tile * TILE; }

// Writes the bit sets, every word of them: a warp for 32 bins of a cell, and class.
template <class Rule>
INLINE void list_tiles(const real* boxes, const real* offset, unsigned* lists, const Sizes& s) {
    constexpr unsigned everyone = 0xffffffffu;
    const Lists sets(s);
    const int lane = threadIdx.x % 32;
    index_t task = index_t(blockIdx.x) * (blockDim.x / 32) + threadIdx.x / 32;
    if (task >= sets.words * s.classes * s.group * s.group) return;
    const index_t word = task % sets.words;
    task /= sets.words;
    const int class_of = int(task % s.classes);
    const CellBins bins(s, int(task / s.classes));

    const index_t candidate = word * 32 + lane;
    const Axis none = {real(0), real(0), real(0), real(0), 0, 0, 0, -1};
    Bin bin = {none, none};
    int image = -1;
    if (candidate < bins.count(s)) {
        const CellBin at(bins, candidate);
        const Roi roi = Rule::roi(s, boxes + at.number * 5);
        image = roi.image;
        bin = bin_of<Rule>(s, roi, offset, at.number, class_of, at.row, at.column);
    }
#pragma unroll 1
    for (int tile = 0; tile < sets.tiles_y; ++tile) {
        const unsigned found = __ballot_sync(everyone, reads(bin.y, tile));
        if (lane == 0) lists[sets.tile_row(s, bins.cell, class_of, tile) + word] = found;
    }
#pragma unroll 1
    for (int tile = 0; tile < sets.tiles_x; ++tile) {
        const unsigned found = __ballot_sync(everyone, reads(bin.x, tile));
        if (lane == 0) lists[sets.tile_column(s, bins.cell, class_of, tile) + word] = found;
    }
    if (class_of != 0) return;
#pragma unroll 1
    for (int of = 0; of < s.batch; ++of) {
        const unsigned found = __ballot_sync(everyone, image == of);
        if (lane == 0) lists[sets.image(s, bins.cell, of) + word] = found;
    }
}

// A block for each TILE x TILE pixels of a plane, class and chunk of lanes * VEC channels. It goes over the words of the
// bit sets that `list_tiles` wrote, and takes as many at a time as have HITS bins together. Their weights are found once and
// shared, and every thread adds them up for one row of the tile. Nothing is written but the sums, once, so there are no
// atomics, no list of a length that depends on the boxes, and one order of summation: the bins' own.
template <class Rule>
INLINE void input_gradient(const scalar_t* grad, const real* boxes, const real* offset, const unsigned* lists,
                           scalar_t* grad_pixels, const Sizes& s, int lanes) {
    constexpr unsigned everyone = 0xffffffffu;
    constexpr int together = 4;  // gradients asked for before one is used
    __shared__ Axis hit_y[HITS];
    __shared__ Axis hit_x[HITS];
    __shared__ index_t hit_at[HITS];
    __shared__ real weight_y[HITS * TILE];
    __shared__ real weight_x[HITS * TILE];
    __shared__ int hits_of_warp[TILE_THREADS / 32];
    __shared__ int words_of_warp[TILE_THREADS / 32];
    __shared__ int hits_until_warp[TILE_THREADS / 32];

    const Lists sets(s);
    const int per_class = s.channels / s.classes, chunk_channels = lanes * VEC;
    const int chunks = (per_class + chunk_channels - 1) / chunk_channels;
    index_t task = blockIdx.x;
    const int chunk = int(task % chunks);
    task /= chunks;
    const int class_of = int(task % s.classes);
    task /= s.classes;
    const int tile_x = int(task % sets.tiles_x), left = tile_x * TILE;
    task /= sets.tiles_x;
    const int tile_y = int(task % sets.tiles_y), top = tile_y * TILE;
    task /= sets.tiles_y;
    const int cell = int(task % (s.group * s.group)), image = int(task / (s.group * s.group));
    const CellBins bins(s, cell);
    const unsigned* in_row = lists + sets.tile_row(s, cell, class_of, tile_y);
    const unsigned* in_column = lists + sets.tile_column(s, cell, class_of, tile_x);
    const unsigned* in_image = lists + sets.image(s, cell, image);

    const int threads = blockDim.x, thread = threadIdx.x, warp = thread / 32, lane = thread % 32;
    const int of_class = chunk * chunk_channels + thread % lanes * VEC, channel = class_of * per_class + of_class;
    const int tile_row = thread / lanes, y = top + tile_row;
    const bool active = tile_row < TILE && y < s.height && of_class < per_class;

    real sum[TILE][VEC] = {};
    for (index_t first = 0; first < sets.words;) {
        const index_t word = first + thread;
        unsigned bits = 0;
        if (word < sets.words) bits = in_row[word] & in_column[word] & in_image[word];
        const int own = __popc(bits);
        int end = own;  // hits up to this thread's word
        for (int before = 1; before < 32; before *= 2) {
            const int other = __shfl_up_sync(everyone, end, before);
            if (lane >= before) end += other;
        }
        if (lane == 31) hits_of_warp[warp] = end;
        __syncthreads();
        for (int w = 0; w < warp; ++w) end += hits_of_warp[w];
        const bool taken = end <= HITS;  // true of the first threads, at least of one
        if (taken) {
            for (int place = end - own; bits != 0; bits &= bits - 1) hit_at[place++] = word * 32 + __ffs(bits) - 1;
        }
        const int words_here = __popc(__ballot_sync(everyone, taken));
        const int hits_until = __shfl_sync(everyone, end, max(words_here - 1, 0));
        if (lane == 0) {
            words_of_warp[warp] = words_here;
            hits_until_warp[warp] = hits_until;
        }
        __syncthreads();
        int hits = 0;
        for (int w = 0; w < threads / 32; ++w) {
            first += words_of_warp[w];
            if (words_of_warp[w] > 0) hits = hits_until_warp[w];
        }
        if (hits == 0) continue;
#pragma unroll 1
        for (int h = thread; h < hits; h += threads) {
            const CellBin at(bins, hit_at[h]);
            const Bin bin = bin_of<Rule>(s, Rule::roi(s, boxes + at.number * 5), offset, at.number, class_of, at.row, at.column);
            hit_y[h] = bin.y;
            hit_x[h] = bin.x;
            hit_at[h] = at.output(s) * s.channels;
        }
        __syncthreads();
#pragma unroll 1
        for (int e = thread; e < hits * TILE; e += threads) {
            weight_y[e] = weight_of<Rule>(hit_y[e / TILE], top + e % TILE).value;
            weight_x[e] = weight_of<Rule>(hit_x[e / TILE], left + e % TILE).value;
        }
        __syncthreads();
#pragma unroll 1
        for (int h = 0; active && h < hits; h += together) {
            Pack out[together];
            real of_row[together];
#pragma unroll
            for (int k = 0; k < together; ++k) {
                of_row[k] = h + k < hits ? weight_y[(h + k) * TILE + tile_row] : real(0);
                out[k] = {};
                if (of_row[k] != real(0)) out[k] = load(grad + hit_at[h + k] + channel);
            }
#pragma unroll
            for (int k = 0; k < together; ++k) {
                if (of_row[k] == real(0)) continue;
#pragma unroll
                for (int x = 0; x < TILE; ++x) {
                    const real weight = of_row[k] * weight_x[(h + k) * TILE + x];
                    if (weight == real(0)) continue;  // the same for all channels; keeps a gradient of NaN to its own pixels
#pragma unroll
                    for (int i = 0; i < VEC; ++i) sum[x][i] += weight * to_real(out[k].value[i]);
                }
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
