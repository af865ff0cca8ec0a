// What the kernels with columns and those without share: the rows of a chunk, their places, and the sort of their entries
// (entries.cuh).
// The header of deform_conv2d.cu says what rows, entries, keys and bins are.

// Sizes, and what is divided by.
struct ChunkSizes : Sizes {
    int group_channels, offset_group_channels;
    long long keys, capacity;  // of an image: its keys, and the most entries that a chunk has of it
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

// Counts the entries of a row in `begin`, or, with `bins`, puts each into the bin of its key, last place first. Then
// `begin`, which held where bins end, says where they begin.
INLINE void sort_row(const ChunkSizes& s, const ChunkRow& row, const Corners& c, real scale, index_t first_image, int* begin,
                     Entry* bins) {
    const index_t image = row.image - first_image;
    int* keys = begin + image * (index_t(s.keys) + 1);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        if (!weighs(c, scale, k)) continue;
        int* key = keys + c.pixel[k] * s.offset_groups + row.offset_group;
        if (bins == nullptr) {
            atomicAdd(key, 1);
        } else {
            const real weight = c.weight[k] != 0 ? scale * c.weight[k] : real(0);  // the factor may be infinite
            bins[image * index_t(s.capacity) + atomicSub(key, 1) - 1] = {row.columns, weight};
        }
    }
}

// After a block has counted its rows, `first` up to `last` of the chunk: the block that completes an image adds it up.
INLINE void add_up_complete_images(const ChunkSizes& s, index_t start, index_t first, index_t last, index_t rows, int* begin,
                                   int* counted, index_t first_image) {
    __shared__ int complete;
    const index_t lines = index_t(s.kernel_height) * s.kernel_width * s.offset_groups;  // rows of an output pixel
    const index_t of_image = index_t(s.out_height) * s.out_width * lines, begins = start * lines;
    const int thread = threadIdx.y * blockDim.x + threadIdx.x;
    __threadfence();  // each thread's counts are there for all before the block says so
    __syncthreads();
    for (index_t image = (begins + first) / of_image; image * of_image < begins + last; ++image) {
        const index_t low = image * of_image - begins, high = low + of_image;  // the image's rows, as the chunk counts
        if (thread == 0) {
            const int own = int((last < high ? last : high) - (first > low ? first : low));
            const int all = int((rows < high ? rows : high) - (low > 0 ? low : 0));
            complete = atomicAdd(counted + (image - first_image), own) + own == all;
        }
        __syncthreads();
        if (complete) {
            __threadfence();
            add_up(begin + (image - first_image) * (index_t(s.keys) + 1), index_t(s.keys));
        }
        __syncthreads();
    }
}

// What the threads over the channels need of a row.
struct Place {
    int bits, channel;  // which corners lie on the map; the offset group's first channel
    index_t columns;
    index_t pixel[4];   // of that channel
    real weight[4], scale;
};

// Finds the place of a row: where it reads, and what that weighs.
INLINE Corners find_place(Place& p, const ChunkSizes& s, const real* shift, const real* mask, const ChunkRow& row) {
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
    return c;
}

// Writes the gradients of a row's offset and mask, each if its array is not null: `dot` has what each of the four corners
// gives, zero off the map.
INLINE void write_place_gradients(const ChunkSizes& s, const ChunkRow& row, const Corners& c, const real* dot, real scale,
                                  real* grad_shift, real* grad_mask) {
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

// Reads the corners of a place; those off the map are zero, whatever the pixel that stands in for them. All are asked for
// before one is used.
INLINE void load_corners(Pack* in, const Place& p, const scalar_t* pixels, int v) {
#pragma unroll
    for (int k = 0; k < 4; ++k) {
        in[k] = {};
        if (p.bits >> k & 1) in[k] = load(pixels + p.pixel[k] + v);
    }
}

// Only the sort, where no other kernel goes over the rows: without `bins` it counts, with them it fills.
extern "C" __global__ void __launch_bounds__(THREADS, 6)
entries(const real* __restrict__ shift, const real* __restrict__ mask, int* begin, int* counted, Entry* bins, ChunkSizes s,
        long long start, long long rows, long long first_image) {
    const index_t first = index_t(blockIdx.x) * blockDim.x, number = first + threadIdx.x;
    if (number < rows) {
        const ChunkRow row(s, index_t(start), number);
        const real scale = mask != nullptr ? mask[row.at_mask(s)] : real(1);
        sort_row(s, row, row.corners(s, shift), scale, index_t(first_image), begin, bins);
    }
    if (bins != nullptr) return;
    const index_t last = first + blockDim.x < rows ? first + blockDim.x : index_t(rows);
    add_up_complete_images(s, index_t(start), first, last, index_t(rows), begin, counted, index_t(first_image));
}

// VEC neighbouring channels of the sums, which are in full precision where they go on.
struct alignas(sizeof(total_t) * VEC) Totals {
    total_t value[VEC];
};

// Writes the sums of VEC channels, added to what an earlier chunk left if they go on.
INLINE void write_totals(total_t* out, const real* sum, int accumulate) {
    Totals& totals = *reinterpret_cast<Totals*>(out);
    Totals last = {};
    if (accumulate) last = totals;
#pragma unroll
    for (int i = 0; i < VEC; ++i) assign(last.value[i], to_real(last.value[i]) + sum[i]);
    totals = last;
}

// The sums of a long bin: each y sums a part of it, and the first adds the parts up in their order.
template <class Grads>
INLINE void gather_long(const Grads& grads, Entry* bin, int count, total_t* out, const ChunkSizes& s, int first_channel,
                        int accumulate) {
    __shared__ real parts[THREADS * VEC];
    put_long_in_order<Block>(bin, count);
    const int part = (count + int(blockDim.y) - 1) / int(blockDim.y), from = min(int(threadIdx.y) * part, count);
    const int width = blockDim.x * VEC;
    for (int base = 0; base < s.offset_group_channels; base += width) {  // all threads alike, for the barriers
        const int v = base + threadIdx.x * VEC;
        real sum[VEC] = {};
        if (v < s.offset_group_channels) {
            const Grads from_here = grads.at(s, first_channel + v);
            const int to = min(from + part, count);
#pragma unroll 1  // registers, which the short bins need
            for (int e = from; e < to; ++e) from_here.add(sum, bin[e]);
        }
#pragma unroll
        for (int i = 0; i < VEC; ++i) parts[threadIdx.y * width + threadIdx.x * VEC + i] = sum[i];
        __syncthreads();
        if (threadIdx.y == 0 && v < s.offset_group_channels) {
            for (int y = 1; y < blockDim.y; ++y) {
#pragma unroll
                for (int i = 0; i < VEC; ++i) sum[i] += parts[y * width + threadIdx.x * VEC + i];
            }
            write_totals(out + v, sum, accumulate);
        }
        __syncthreads();
    }
}

// S^T times the columns' gradient. Threads: x over the channels of an offset group, VEC each; y over the keys of an image,
// which has `blocks` blocks. The entries of a key are first put in order, so every sum runs in one fixed order: by a warp,
// or, where they are more than LONG, by the block. With `accumulate` the sum is added to what an earlier chunk of the same
// image left.
template <class Grads>
INLINE void gather_keys(const Grads& grads, Entry* bins, const int* begin, total_t* grad_pixels, const ChunkSizes& s,
                        int blocks, int accumulate) {
    __shared__ Entry others[THREADS / 32][LONG];
    const index_t image = blockIdx.x / blocks, keys = index_t(s.keys);
    const index_t first = (blockIdx.x - image * blocks) * index_t(blockDim.y);
    const int warp = (threadIdx.y * blockDim.x + threadIdx.x) / 32, warps = blockDim.x * blockDim.y / 32;
    begin += image * (keys + 1) + first;
    bins += image * index_t(s.capacity);
    for (int y = warp; y < blockDim.y && first + y < keys; y += warps) {
        const int from = begin[y], count = begin[y + 1] - from;
        if (count <= LONG) put_in_order(bins + from, others[warp], count);
    }
    __syncthreads();

    total_t* const out = grad_pixels + image * (keys / s.offset_groups) * s.channels;
    for (int y = 0; y < blockDim.y && first + y < keys; ++y) {
        const index_t pixel = divide(first + y, s.by_offset_groups);
        const int from = begin[y], count = begin[y + 1] - from;
        const int first_channel = int(first + y - pixel * s.offset_groups) * s.offset_group_channels;
        if (count > LONG) {
            gather_long(grads, bins + from, count, out + pixel * s.channels + first_channel, s, first_channel, accumulate);
        }
    }

    const index_t key = first + threadIdx.y;
    if (key >= keys) return;
    const index_t pixel = divide(key, s.by_offset_groups);
    const int first_channel = int(key - pixel * s.offset_groups) * s.offset_group_channels;
    const int from = begin[threadIdx.y], to = begin[threadIdx.y + 1];
    if (to - from > LONG || (accumulate && from == to)) return;  // a chunk stands on a part of the image
    for (int v = threadIdx.x * VEC; v < s.offset_group_channels; v += blockDim.x * VEC) {
        real sum[VEC] = {};
        const Grads from_here = grads.at(s, first_channel + v);
#pragma unroll 4
        for (int e = from; e < to; ++e) from_here.add(sum, bins[e]);
        write_totals(out + pixel * s.channels + first_channel + v, sum, accumulate);
    }
}
